"""The image that the Kubernetes files name: pinned, locked and not root. It is not built here."""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "infra/docker"
INSTRUCTIONS = {"FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each instruction, continued lines joined."""
    lines = [
        line
        for line in (FOLDER / "Dockerfile").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (row.partition(" ") for row in joined.split("\n"))]


def values_of(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def test_every_instruction_is_known():
    assert {name for name, _ in instructions()} == INSTRUCTIONS


def test_every_image_has_a_version_and_the_python_of_this_project():
    assert all(
        re.match(r"python:3\.1[12]-slim-\w+( AS \w+)?$", image) for image in values_of("FROM")
    )


def test_what_is_copied_exists_and_is_let_through():
    for copied in values_of("COPY"):
        if not copied.startswith("--from="):
            source = copied.split()[0]
            assert (FOLDER.parents[1] / source).is_file()
            assert f"!{source}" in (FOLDER / "Dockerfile.dockerignore").read_text()


def test_the_last_user_is_not_root():
    assert values_of("USER")[-1] == "1000:1000"
