"""Whether this clone and this environment belong together, and git may read the clone.

A copied clone has an environment that runs the code of the folder it was made in. A clone of
another user is one that git does not read. Both would go unnoticed until much later.
"""

import sys
from pathlib import Path

import vivero
from vivero.errors import ConfigError
from vivero.integrity.clone import check_clone, quoted

VENV = ".venv"


def refuse_foreign_clone(root: Path) -> None:
    """Refuse to work in a clone with another clone's code, or in one that git does not read.

    Args:
        root: Top of the clone.

    Raises:
        ConfigError: It names both folders, and what to type.
    """
    foreign = foreign_environment(root, Path(sys.prefix), Path(vivero.__file__).parents[2])
    if foreign is not None:
        raise ConfigError(foreign)
    check_clone(root)


def foreign_environment(root: Path, prefix: Path, code_dir: Path) -> str | None:
    """Why the code that runs is not the code of a clone that has an environment; None when it is.

    A clone without an environment, such as one that a worker made, runs with that of another one.

    Args:
        root: Top of the clone.
        prefix: Folder of the environment that runs.
        code_dir: Top of the clone whose code runs.
    """
    own = root / VENV
    if not (own / "pyvenv.cfg").exists() or _is_same(root, code_dir):
        return None
    if _is_same(own, prefix):
        return (
            f"{own} was made in another folder, so it runs the code of {code_dir}, not of {root}. "
            f"Make it again: cd {quoted(root)} && make setup"
        )
    return (
        f"this is the environment {prefix}, which runs the code of {code_dir}, but {root} has an "
        f"environment of its own. Use it: cd {quoted(root)} && make setup && . {VENV}/bin/activate"
    )


def _is_same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
