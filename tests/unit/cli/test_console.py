"""Text of a person is printed as it was written, whatever it looks like."""

import ast
from pathlib import Path

import pytest

from vivero.cli import doctor
from vivero.cli.console import plain_console

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["photos [old]", "[/x]", ":smile: [red]", "[bold]a[/bold]"])
def test_doctor_shows_a_folder_and_a_mistake_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    root = tmp_path / name
    root.mkdir(parents=True)
    (root / "params.yaml").write_text(f'"{name}": 1\n')
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(doctor, "CHECKS", (doctor.settings,))
    assert doctor.examine() == 1
    lines = capsys.readouterr().out.splitlines()
    assert name in lines[0]
    assert any(name in line for line in lines[1:])


def test_a_terminal_gets_the_text_as_it_is(capsys: pytest.CaptureFixture[str]):
    plain_console().print("[/x] :smile: [red]5[/red]")
    assert capsys.readouterr().out == "[/x] :smile: [red]5[/red]\n"


def test_no_command_prints_with_a_console_that_reads_markup():
    places = [
        path
        for folder in ("src", "infra", "pipelines")
        for path in (REPOSITORY / folder).rglob("*.py")
    ]
    readers = [
        f"{path}:{call.lineno}"
        for path in places
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "Console"
        and {word.arg for word in call.keywords} & {"width", "highlight", "soft_wrap"}
        and not any(
            word.arg == "markup" and isinstance(word.value, ast.Constant) and not word.value.value
            for word in call.keywords
        )
    ]
    assert readers == []
