"""A place that cannot be written ends in one sentence, before any work; the output too."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from vivero.errors import ViveroError
from vivero.files import check_writable_folder

NOBODY = 65534
WRITES = [  # every command with a place of its own; the places are tried before the models are
    ["sample", "no-model", "--out"],
    ["show-tree", "no-model", "--out"],
    ["compare", "no-model", "no-model", "--out"],
    ["compare-samplers", "no-model", "--out"],
    ["ab", "sample", "ada", "--out"],
    ["ab", "pair", "ada", "--out"],
    ["simulate-ab", "--out"],
    ["data", "import", "no-folder", "--out"],
    ["data", "show", "--grid"],
]


def vivero(
    arguments: Sequence[str | bytes], cwd: Path, **options: object
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "vivero.cli.app", *arguments],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        cwd=cwd,
        text=True,
        timeout=250,
        check=False,
    )


@pytest.mark.parametrize("command", WRITES, ids=lambda command: " ".join(command[:2]))
def test_every_command_tries_its_place_first(command: list[str], tmp_path: Path):
    (tmp_path / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    (tmp_path / "file").write_text("mine")
    done = vivero([*command, "file/below/out.png"], tmp_path)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("vivero: cannot write there: ")
    assert "file/below" in line
    assert "A file is where a folder is needed" in line
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("file", "A file is where a folder is needed"),
        ("x" * 300, "shorter name"),
        ("/".join(["x" * 200] * 30), "shorter name"),
        (os.fsdecode(b"caf\xe9"), "not a UTF-8 name"),
        ("/proc/self/x", "cannot write there"),
    ],
)
def test_a_place_that_cannot_be(name: str, said: str, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ViveroError) as caught:
        check_writable_folder(tmp_path / name)
    assert said in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208  the trial leaves nothing


@pytest.mark.parametrize("name", ["new", "new/and/deeper", "日本", "."])
def test_a_place_that_can_be_is_left_as_it_was(name: str, tmp_path: Path):
    check_writable_folder(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_folder_of_another_user_is_refused_to_that_user():
    code = (
        "import os\nfrom pathlib import Path\nfrom vivero.files import check_writable_folder\n"
        "from vivero.processes import run_program\n"
        f"os.setuid({NOBODY})\n"
        "run_program('tidy', lambda: check_writable_folder(Path('/var/lib/vivero-trial')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Permission denied: /var/lib/vivero-trial" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_full_disk_is_no_space(tmp_path: Path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    code = (
        f"{limit}\nfrom vivero.processes import run_program\nfrom pathlib import Path\n"
        "run_program('tidy', lambda: Path('x').write_text('12345'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tidy: no space left on the disk")


PRINTS = "from vivero.processes import run_program\nrun_program('tidy', lambda: print({text!a}))"


def printed(text: str, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-c", PRINTS.format(text=text)],
        env={**os.environ, **variables},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, b"caf\xe9 \\u65e5\\u672c\n"),
        ({"PYTHONIOENCODING": "ascii"}, b"caf\\xe9 \\u65e5\\u672c\n"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0"}, b"caf\\xe9 \\u65e5\\u672c\n"),
        (
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            b"caf\\xe9 \\u65e5\\u672c\n",
        ),
        ({"PYTHONIOENCODING": "utf-8"}, "café 日本\n".encode()),
    ],
)
def test_a_terminal_gets_what_it_can_show(variables: dict[str, str], shown: bytes):
    done = printed("café 日本", **variables)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == shown


def test_files_have_utf8_names_and_text_in_every_locale(tmp_path: Path):
    code = (
        "from pathlib import Path\nfrom vivero.processes import run_program\n"
        "run_program('tidy', lambda: Path('日本').write_text('日本'))"
    )
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    (tmp_path / "write.py").write_text(code, encoding="utf-8")
    subprocess.run([sys.executable, "write.py"], cwd=tmp_path, env=env, check=True)
    assert (tmp_path / "日本").read_text(encoding="utf-8") == "日本"


def test_output_that_goes_nowhere_ends_quietly_or_in_one_sentence():
    program = [sys.executable, "-c", PRINTS.format(text="x" * 100_000)]
    closed = subprocess.run(
        ["sh", "-c", '"$0" "$@" >&- 2>&-', *program], capture_output=True, check=False
    )
    assert (closed.returncode, closed.stdout + closed.stderr) == (0, b"")
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(b"tidy: no space left")
    assert result.stderr.count(b"\n") == 1
    reader, writer = os.pipe()
    os.close(reader)
    broken = subprocess.run(program, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (broken.returncode, broken.stderr) == (141, b"")


def test_what_is_printed_never_lands_in_a_file_that_is_opened_later(tmp_path: Path):
    code = (
        "from vivero.processes import run_program\n"
        "def body():\n    with open('kept', 'w') as file:\n"
        "        print('lost', flush=True)\n        file.write('mine')\n"
        "run_program('tidy', body)"
    )
    program = ["sh", "-c", '"$0" "$@" >&-', sys.executable, "-c", code]
    subprocess.run(program, cwd=tmp_path, check=True)
    assert (tmp_path / "kept").read_text() == "mine"
