"""Text from people is shown as one line, whatever is in it."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivero.plain_text import EMPTY, UNSEEN, one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat", "cat"),
        ("a\nb", "a\\nb"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("abc\u202edef", "abc\\u202edef"),
        ("日本", "日本"),
        ("  \t ", "\\t"),
        ("   ", EMPTY),
        ("", EMPTY),
        ("x" * 300, "x" * 79 + "…"),
    ],
)
def test_what_is_unseen_is_escaped(text: str, shown: str):
    assert one_line(text) == shown


@given(text=st.text(), length=st.integers(10, 200))
def test_any_text_becomes_one_bounded_line(text: str, length: int):
    line = one_line(text, length)
    assert 1 <= len(line) <= length
    assert not {unicodedata.category(c) for c in line} & (UNSEEN - {"Cf"})
    assert line.splitlines() == [line]
    assert one_line(line, length) == line
