"""No pickle is ever loaded: no call that could, outside the one pinned door."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
# The EfficientNet weights inside their package are a pickle; their hash is pinned there.
TORCH_LOAD_DOOR = "vivero/evaluation/efficientnet.py"


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_no_module_imports_a_pickle():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            names = [alias.name for alias in node.names]
            names += [getattr(node, "module", None) or ""]
            assert not {name.split(".")[0] for name in names} & FORBIDDEN_MODULES, path


def test_torch_load_has_one_door_and_loads_weights_only():
    doors = []
    for path in SOURCE.rglob("*.py"):
        for call in calls(ast.parse(path.read_text())):
            if ast.unparse(call.func) != "torch.load":
                continue
            doors.append(path.relative_to(SOURCE).as_posix())
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("weights_only") == "True", path
    assert set(doors) <= {TORCH_LOAD_DOOR}


def test_numpy_never_allows_pickle():
    for path in SOURCE.rglob("*.py"):
        for call in calls(ast.parse(path.read_text())):
            if ast.unparse(call.func) in ("np.load", "numpy.load"):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                assert given.get("allow_pickle") == "False", path
