"""Digest of the code that decides a result: a module and all modules of vivero that it imports.

The syntax tree is hashed without docstrings: an edit of a comment, a docstring or the layout of
the code changes nothing. The digest is the same in all versions of Python that are supported.
"""

import ast
import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path

PACKAGE = "vivero"
PACKAGE_DIR = Path(__file__).parent
WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def module_closure_digest(
    entry_modules: Collection[str],
    excluded: Collection[str] = (),
    package_dir: Path = PACKAGE_DIR,
) -> str:
    """Hex sha256 over the entry modules and everything of vivero that they import.

    Args:
        entry_modules: Full names, such as `vivero.stages.evaluate`.
        excluded: Full names of modules or packages that cannot change the result: they are neither
            hashed nor followed.
        package_dir: Folder of the package `vivero`.

    Raises:
        ValueError: When an entry module or an excluded one does not exist.
    """
    digest = hashlib.sha256()
    for name in module_closure(entry_modules, excluded, package_dir):
        path = _path_of(name, package_dir)
        assert path is not None, "module_closure found it"  # noqa: S101
        code = _canonical(_without_docstrings(_parse(path)))
        digest.update(f"{name}\0{hashlib.sha256(code.encode()).hexdigest()}\n".encode())
    return digest.hexdigest()


def module_closure(
    entry_modules: Collection[str],
    excluded: Collection[str] = (),
    package_dir: Path = PACKAGE_DIR,
) -> list[str]:
    """Full names of the entry modules and all modules of vivero that they import, sorted.

    Imports inside functions count too. A package counts as its `__init__`.

    Raises:
        ValueError: When an entry module or an excluded one does not exist.
    """
    for name in (*entry_modules, *excluded):
        if _path_of(name, package_dir) is None:
            raise ValueError(f"there is no module {name} below {package_dir}")
    found: set[str] = set()
    waiting = list(entry_modules)
    while waiting:
        name = waiting.pop()
        path = _path_of(name, package_dir)
        if path is None or name in found or _is_excluded(name, excluded):
            continue
        found.add(name)
        waiting += _imported_by(name, path)
    return sorted(found)


def _is_excluded(name: str, excluded: Collection[str]) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in excluded)


def _path_of(name: str, package_dir: Path) -> Path | None:
    """The file of a module; None for a name that is no module, such as a function's."""
    first, *parts = name.split(".")
    if first != PACKAGE:
        return None
    place = package_dir.joinpath(*parts)
    candidates = (place / "__init__.py", place.with_suffix(".py") if parts else place)
    return next((path for path in candidates if path.is_file()), None)


def _imported_by(name: str, path: Path) -> Iterator[str]:
    """Names that a module may import; what follows `from x import` may be a module or not."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*parent, *([node.module] if node.module else [])])
            targets = [source, *(f"{source}.{alias.name}" for alias in node.names)]
        else:
            continue
        for target in targets:
            parts = target.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), filename=path.name)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree


def _canonical(value: object) -> str:
    """A syntax tree as text without line numbers and empty fields, which differ by version."""
    if isinstance(value, ast.AST):
        fields = [
            f"{name}={_canonical(item)}"
            for name, item in ast.iter_fields(value)
            if item is not None and item != []
        ]
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, list):
        return f"[{', '.join(map(_canonical, value))}]"
    return f"{type(value).__name__}:{value!r}"
