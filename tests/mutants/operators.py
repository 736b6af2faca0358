"""Automatic mutations of a Python file: operators, numbers, booleans, raise, return, calls."""

import ast
from collections import Counter
from collections.abc import Iterator

from tests.mutants.mutation import Mutation

OPERATORS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
LOGGING = {"debug", "info", "warning", "error"}  # what a log says is no promise of these modules


def mutations_of(file: str, text: str, tests: tuple[str, ...]) -> list[Mutation]:
    """All automatic mutations of a file, in the order of the text; equal names are numbered."""
    found = sorted(_Mutator(file, text, tests).all(), key=lambda one: (one.begin, one.new))
    counts: Counter[str] = Counter()
    numbered = []
    for one in found:
        counts[one.name] += 1
        suffix = f" #{counts[one.name]}" if counts[one.name] > 1 else ""
        numbered.append(
            Mutation(one.name + suffix, one.file, one.begin, one.old, one.new, one.tests)
        )
    return numbered


class _Mutator:
    def __init__(self, file: str, text: str, tests: tuple[str, ...]) -> None:
        self.file, self.text, self.tests = file, text, tests
        self.lines = text.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))

    def all(self) -> Iterator[Mutation]:
        yield from self._of(ast.parse(self.text), "module")

    def _of(self, node: ast.AST, scope: str) -> Iterator[Mutation]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope = node.name if scope == "module" else f"{scope}.{node.name}"
        for child in ast.iter_child_nodes(node):
            if not _says_only(child):
                yield from self._at(child, scope)
                yield from self._of(child, scope)

    def _at(self, node: ast.AST, scope: str) -> Iterator[Mutation]:
        """The mutations of one node, without those of its children."""
        if isinstance(node, ast.Compare | ast.BinOp | ast.BoolOp):
            yield from self._of_operator(node, scope)
        elif isinstance(node, ast.Constant):
            yield from self._of_constant(node, scope)
        elif isinstance(node, ast.Name) and node.id in CALLS:
            yield self._replaced(node, CALLS[node.id], scope)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield self._replaced(node, self._text_of(node.operand), scope)
        elif isinstance(node, ast.If | ast.IfExp):
            yield self._replaced(node.test, f"(not ({self._text_of(node.test)}))", scope)
        elif isinstance(node, ast.Return) and node.value is not None:
            yield self._replaced(node, "return None", scope)
        elif isinstance(node, ast.Raise) or _is_call(node):
            yield self._replaced(node, "pass", scope)

    def _of_operator(
        self, node: ast.Compare | ast.BinOp | ast.BoolOp, scope: str
    ) -> Iterator[Mutation]:
        if isinstance(node, ast.BoolOp):
            left, right, kind = node.values[0], node.values[1], type(node.op)
        elif isinstance(node, ast.BinOp):
            left, right, kind = node.left, node.right, type(node.op)
        else:
            left, right, kind = node.left, node.comparators[0], type(node.ops[0])
        old, new = OPERATORS.get(kind, ("", ""))
        place = self.text.find(old, self._end(left), self._begin(right)) if old else -1
        if place >= 0:
            yield self._mutation(place, old, new, scope)

    def _of_constant(self, node: ast.Constant, scope: str) -> Iterator[Mutation]:
        if isinstance(node.value, bool):
            yield self._replaced(node, str(not node.value), scope)
        elif isinstance(node.value, int):
            for value in (node.value + 1, node.value - 1):
                yield self._replaced(node, str(value) if value >= 0 else f"({value})", scope)
        elif isinstance(node.value, float):
            yield self._replaced(node, repr(2 * node.value if node.value else 1.0), scope)

    def _replaced(self, node: ast.stmt | ast.expr, new: str, scope: str) -> Mutation:
        begin = self._begin(node)
        return self._mutation(begin, self._text_of(node), new, scope)

    def _mutation(self, begin: int, old: str, new: str, scope: str) -> Mutation:
        line = self.text.rfind("\n", 0, begin) + 1
        context = self.text[line : self.text.find("\n", begin)].strip()
        shown = [" ".join(text.split())[:60] for text in (context, old, new)]
        name = f"{self.file}::{scope}: {shown[0]!r}: {shown[1]} -> {shown[2]}"
        return Mutation(name, self.file, begin, old, new, self.tests)

    def _begin(self, node: ast.stmt | ast.expr) -> int:
        return self._index(node.lineno, node.col_offset)

    def _end(self, node: ast.stmt | ast.expr) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._index(node.end_lineno, node.end_col_offset)

    def _index(self, line: int, column_bytes: int) -> int:
        before = self.lines[line - 1].encode()[:column_bytes].decode()
        return self.starts[line - 1] + len(before)

    def _text_of(self, node: ast.stmt | ast.expr) -> str:
        return self.text[self._begin(node) : self._end(node)]


def _says_only(node: ast.AST) -> bool:
    """Whether a node is prose, a type or a log line: a change there breaks no promise."""
    match node:
        case ast.JoinedStr() | ast.Import() | ast.ImportFrom() | ast.Raise(exc=None):
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr=attr))):
            return attr in LOGGING
        case ast.Call(func=ast.Name(id="dataclass" | "field" | "TypeVar")):
            return True
    return False


def _is_call(node: ast.AST) -> bool:
    """Whether a statement is a call for what it does and not for its value."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
