"""The list of mutations does not rot, and the automatic ones are code that can run."""

import ast
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.__main__ import automatic_mutations, copy_tree, tried
from tests.mutants.mutation import (
    REPOSITORY,
    Mutation,
    load_declared,
    load_equivalent,
    load_modules,
)
from tests.mutants.operators import mutations_of

SOURCE = '''"""A module."""

LIMIT = 3
SHARES = (0.05, 0.0)


def clip(values, is_strict=True):
    """Prose with a number: 5."""
    if not values and len(values) < LIMIT:
        raise ValueError(f"need {LIMIT + 1}")
    log.info("%d", 7)
    values.sort()
    return min(values) == -1 or is_strict
'''
EXPECTED = {
    ("3", "4"),
    ("3", "2"),
    ("not values", "values"),
    ("and", "or"),
    ("<", "<="),
    ("not values and len(values) < LIMIT", "(not (not values and len(values) < LIMIT))"),
    ('raise ValueError(f"need {LIMIT + 1}")', "pass"),
    ("values.sort()", "pass"),
    ("return min(values) == -1 or is_strict", "return None"),
    ("min", "max"),
    ("0.05", "0.1"),
    ("0.0", "1.0"),
    ("==", "!="),
    ("1", "2"),
    ("1", "0"),
    ("or", "and"),
    ("True", "False"),
}


def test_every_declared_mutation_applies_to_the_code_of_today():
    declared = load_declared()
    names = Counter(mutation.name for mutation in declared)
    assert max(names.values()) == 1
    for mutation in declared:
        text = (REPOSITORY / mutation.file).read_text(encoding="utf-8")
        mutated = mutation.applied_to(text)
        assert mutated != text, mutation.name
        ast.parse(mutated)
        assert mutation.tests, mutation.name


def test_every_test_that_is_named_is_there():
    named = {test for mutation in load_declared() for test in mutation.tests}
    named |= {test for tests in load_modules().values() for test in tests}
    for test in named:
        path, _, function = test.partition("::")
        assert (REPOSITORY / path).is_file(), test
        assert f"def {function}" in (REPOSITORY / path).read_text(encoding="utf-8"), test


def test_automatic_mutations_change_every_kind_of_code_and_no_prose():
    found = mutations_of("module.py", SOURCE, ())
    assert {(mutation.old, mutation.new) for mutation in found} == EXPECTED
    assert len({mutation.name for mutation in found}) == len(found)


@pytest.mark.parametrize("file", load_modules())
def test_automatic_mutations_are_code(file: str):
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    found = mutations_of(file, text, ("test",))
    assert found
    for mutation in random.Random(file).sample(found, min(15, len(found))):
        ast.parse(mutation.applied_to(text))


def test_a_mutation_that_is_called_equivalent_exists_and_is_not_drawn():
    every = {mutation.name for mutation in automatic_mutations(10**6, 0)}
    assert not every & load_equivalent().keys()
    known = {
        mutation.name
        for file, tests in load_modules().items()
        for mutation in mutations_of(file, (REPOSITORY / file).read_text("utf-8"), tests)
    }
    assert load_equivalent().keys() <= known


def test_a_seed_draws_the_same_mutations_again_and_another_seed_others():
    first, again, other = (automatic_mutations(10, seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [("left + right", "left - right", "killed"), ("of two", "of 2", "survived")],
)
def test_a_mutation_is_killed_when_a_test_fails_and_the_code_comes_back(
    tmp_path: Path, old: str, new: str, status: str
):
    text = '"""The sum of two."""\n\n\ndef total(left, right):\n    return left + right\n'
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "adder.py").write_text(text)
    (tmp_path / "test_adder.py").write_text(
        "from adder import total\n\n\ndef test_total():\n    assert total(1, 2) == 3\n"
    )
    mutation = Mutation("m", "src/adder.py", text.index(old), old, new, ("test_adder.py",))
    outcome = tried(mutation, tmp_path, 60)
    assert outcome.status == status
    assert (tmp_path / "src" / "adder.py").read_text() == text


def test_the_copy_is_what_runs_and_not_the_repository(tmp_path: Path):
    copy_tree(tmp_path)
    assert (tmp_path / "params.yaml").read_bytes() == (REPOSITORY / "params.yaml").read_bytes()
    assert not (tmp_path / "work").exists()
    test = "import vivero\n\n\ndef test_it():\n    assert vivero.__file__.startswith({!r})\n"
    (tmp_path / "tests" / "test_place.py").write_text(test.format(str(tmp_path)))
    text = (tmp_path / "src/vivero/errors.py").read_text()
    mutation = Mutation("m", "src/vivero/errors.py", 0, "", "", ("tests/test_place.py",))
    assert tried(mutation, tmp_path, 60).status == "survived"
    assert (tmp_path / "src/vivero/errors.py").read_text() == text
