"""The digest of code: what changes it, and what does not."""

import shutil
from pathlib import Path

import grimp
import pytest

from vivero.code_digest import PACKAGE_DIR, module_closure, module_closure_digest

ENTRY = ["vivero.entry"]
FILES = {
    "__init__.py": '"""A package."""\n',
    "entry.py": '"""Entry."""\nfrom vivero.room import wall\n\n\ndef run():\n    """Run."""\n'
    "    from vivero.room.door import handle\n\n    return handle + wall.height\n",
    "room/__init__.py": "",
    "room/wall.py": "from . import paint\nheight = 2 + paint.layers\n",
    "room/paint.py": "layers = 3\n",
    "room/door.py": "import vivero.room.hinge as hinge\n\nhandle = hinge.size\n",
    "room/hinge.py": "size = 1\n",
    "room/picture.py": "colour = 1\n",
}


@pytest.fixture
def package_dir(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "vivero" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "vivero"


def replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def digest(package_dir: Path, *excluded: str) -> str:
    return module_closure_digest(ENTRY, excluded, package_dir)


def test_the_closure_follows_every_kind_of_import(package_dir: Path):
    assert module_closure(ENTRY, (), package_dir) == [
        "vivero",
        "vivero.entry",
        "vivero.room",
        "vivero.room.door",
        "vivero.room.hinge",
        "vivero.room.paint",
        "vivero.room.wall",
    ]


@pytest.mark.parametrize("entry", ["vivero.stages.evaluate", "vivero.stages.trainer"])
def test_the_closure_of_the_product_is_that_of_its_import_graph(entry: str):
    """The oracle is grimp, which import-linter is built on."""
    graph = grimp.build_graph("vivero")
    expected = {entry, *graph.find_upstream_modules(entry)}
    found = set(module_closure([entry]))
    assert expected <= found
    packages = {name for name in found if (PACKAGE_DIR.parent / name.replace(".", "/")).is_dir()}
    assert found - packages == expected - packages


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("entry.py", "handle + wall", "handle - wall"),
        ("room/wall.py", "2", "3"),
        ("room/paint.py", "3", "4"),
        ("room/door.py", "hinge.size", "-hinge.size"),
        ("room/hinge.py", "1", "True"),
    ],
)
def test_a_change_in_any_module_of_the_closure_changes_the_digest(
    package_dir: Path, name: str, old: str, new: str
):
    before = digest(package_dir)
    replace(package_dir / name, old, new)
    assert digest(package_dir) != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("entry.py", '"""Run."""', '"""Run, in other words."""'),
        ("entry.py", '"""Entry."""', ""),
        ("room/wall.py", "height = 2", "# a comment\nheight = 2"),
        ("room/wall.py", "height = 2 + paint.layers", "height = (\n    2 + paint.layers\n)"),
    ],
)
def test_prose_and_layout_change_nothing(package_dir: Path, name: str, old: str, new: str):
    before = digest(package_dir)
    replace(package_dir / name, old, new)
    assert digest(package_dir) == before


def test_a_text_that_is_a_value_counts(package_dir: Path):
    path = package_dir / "room/paint.py"
    path.write_text("layers = 3\nname = 'white'\n")
    before = digest(package_dir)
    path.write_text("layers = 3\nname = 'black'\n")
    assert digest(package_dir) != before


def test_a_module_that_is_not_imported_changes_nothing(package_dir: Path):
    before = digest(package_dir)
    (package_dir / "room/picture.py").write_text("colour = 2\n")
    assert digest(package_dir) == before


def test_an_excluded_module_is_neither_hashed_nor_followed(package_dir: Path):
    before = digest(package_dir, "vivero.room.door")
    assert before != digest(package_dir)
    (package_dir / "room/hinge.py").write_text("size = 9\n")
    assert digest(package_dir, "vivero.room.door") == before


def test_a_package_can_be_excluded(package_dir: Path):
    assert module_closure(ENTRY, ["vivero.room"], package_dir) == ["vivero", "vivero.entry"]


def test_the_place_of_the_package_changes_nothing(package_dir: Path, tmp_path: Path):
    shutil.copytree(package_dir, tmp_path / "elsewhere" / "vivero")
    assert digest(tmp_path / "elsewhere" / "vivero") == digest(package_dir)


@pytest.mark.parametrize("excluded", [[], ["vivero.entry"]])
def test_a_name_that_is_no_module_is_refused(package_dir: Path, excluded: list[str]):
    with pytest.raises(ValueError, match=r"no module vivero\.window"):
        module_closure([*ENTRY, "vivero.window"], excluded, package_dir)
    with pytest.raises(ValueError, match=r"no module vivero\.window"):
        module_closure(ENTRY, ["vivero.window"], package_dir)
