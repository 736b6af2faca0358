"""The README's map is the tree, its commands exist, its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
MADE_BY_USE = {"dvc.lock", "artifacts", "work", "data", "mlflow.db", "mlartifacts", "samples"}


def mapped_paths() -> list[str]:
    """Paths of the map: the fenced block below the heading, two spaces for each level."""
    block = README.split("## The map", 1)[1].split("```")[1]
    folders: list[str] = []
    paths = []
    for line in block.splitlines()[1:]:
        match = re.match(r"^( *)(\S+?)(/?)(?:\s{2,}|$)", line)
        if not match:
            continue
        depth = len(match[1]) // 2
        folders = [*folders[:depth], match[2]]
        paths.append("/".join(folders))
    return paths


def tracked(below: str) -> set[str]:
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", below],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return set(files)


def test_everything_on_the_map_exists():
    missing = [
        path
        for path in mapped_paths()
        if path.split("/")[0] not in MADE_BY_USE and not (REPOSITORY / path).exists()
    ]
    assert not missing


def test_every_room_is_on_the_map():
    rooms = {"/".join(file.split("/")[:3]) for file in tracked("src/vivero") if file.count("/") > 2}
    rooms |= {file.split("/")[0] for file in tracked(".") if not file.startswith(".")}
    assert not rooms - set(mapped_paths())


def test_make_targets_named_in_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", README))
    assert named
    assert named <= targets


@pytest.mark.parametrize(
    "command",
    sorted(set(re.findall(r"vivero ((?:data )?[a-z][a-z-]+)", README.split("```", 1)[1]))),
)
def test_commands_named_in_the_readme_exist(command: str):
    result = subprocess.run(
        [str(Path(sys.executable).parent / "vivero"), *command.split(), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr


def test_links_lead_somewhere():
    for file in ["README.md", "CONTRIBUTING.md"]:
        text = (REPOSITORY / file).read_text()
        links = re.findall(r"\]\((?!https?://)([^)#]+)", text)
        assert not [link for link in links if not (REPOSITORY / link).exists()]
