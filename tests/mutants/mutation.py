"""A mutation: one change of the code that at least one of some tests must notice."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
DECLARED, MODULES = HERE / "declared.yaml", HERE / "modules.yaml"


@dataclass(frozen=True)
class Mutation:
    """One change.

    Attributes:
        name: What is broken; for an automatic mutation its place, so that it can be run again.
        file: The file that is changed, relative to the repository.
        begin: Index of the first changed character.
        old: The text that is replaced; it is at `begin`.
        new: What replaces it.
        tests: Files or ids of tests of which one must fail.
    """

    name: str
    file: str
    begin: int
    old: str
    new: str
    tests: tuple[str, ...]

    def applied_to(self, text: str) -> str:
        """The text of the file with the mutation.

        Raises:
            ValueError: When the old text is not at its place.
        """
        end = self.begin + len(self.old)
        if text[self.begin : end] != self.old:
            raise ValueError(f"{self.file} does not hold {self.old!r} at {self.begin}")
        return text[: self.begin] + self.new + text[end:]


def load_declared(root: Path = REPOSITORY) -> list[Mutation]:
    """The mutations of declared.yaml.

    Raises:
        ValueError: When an old text is not exactly once in its file.
    """
    return [_declared(entry, root) for entry in _read(DECLARED)]


def load_modules() -> dict[str, tuple[str, ...]]:
    """The files that are mutated automatically, each with the tests that hold its promises."""
    return {file: tuple(group["tests"]) for group in _read(MODULES) for file in group["modules"]}


def load_equivalent() -> dict[str, str]:
    """Automatic mutations that no test can notice, by name, each with the reason."""
    return {
        name: reason
        for group in _read(MODULES)
        for name, reason in (group.get("equivalent") or {}).items()
    }


def _declared(entry: dict[str, Any], root: Path) -> Mutation:
    text = (root / entry["file"]).read_text(encoding="utf-8")
    old, new = entry["old"].rstrip("\n"), entry["new"].rstrip("\n")
    if text.count(old) != 1:
        raise ValueError(
            f"the mutation '{entry['name']}' expects its old text once in {entry['file']}; it is "
            f"there {text.count(old)} times. Update {DECLARED.name}"
        )
    tests = tuple(entry["tests"])
    return Mutation(entry["name"], entry["file"], text.index(old), old, new, tests)


def _read(path: Path) -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load(path.read_text(encoding="utf-8")))
