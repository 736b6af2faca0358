"""One spelling for each class name, and a warning about names that read alike."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivero.data.class_names import alike_names, class_name, known_spelling, reading

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    "other", ["Cat", "cat ", " cat", "CAT", "\uff43\uff41\uff54", "c\u200bat", "cat\u00a0", "cat\t"]
)
def test_names_that_read_alike_are_grouped(other: str):
    assert alike_names(["cat", "dog", other]) == [sorted(["cat", other])]


def test_names_that_differ_are_no_group():
    assert alike_names(["cat", "cats", "c a t", "çat"]) == []
    assert alike_names(["a b", "a  b"]) == [["a  b", "a b"]]


def test_both_forms_are_one_name():
    assert class_name(NFD) == NFC
    assert known_spelling(NFC, [NFD]) == NFD
    assert known_spelling(NFD, [NFC]) == NFC
    assert known_spelling("Café", [NFC]) is None


@given(name=st.text())
def test_the_spelling_and_the_reading_are_stable(name: str):
    assert class_name(class_name(name)) == class_name(name)
    assert reading(class_name(name)) == reading(name)
