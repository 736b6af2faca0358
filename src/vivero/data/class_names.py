"""Names of classes: one spelling for each, and a warning about those that read alike. Pure.

A name comes from a folder or from metadata. Macs write "café" in two code points more than other
systems do, so every name is brought into Unicode's form NFC where it enters.
"""

import re
import unicodedata
from collections.abc import Collection, Sequence

from vivero.plain_text import one_line

WHOLE_NUMBER = re.compile(r"-?\d{1,18}")
MAX_SHOWN = 10


def class_name(text: str) -> str:
    """The one spelling of a name."""
    return unicodedata.normalize("NFC", text)


def known_spelling(text: str, known_names: Collection[str]) -> str | None:
    """The name among known_names that is the same name as text; None when there is none."""
    if text in known_names:
        return text
    name = class_name(text)
    return next((known for known in known_names if class_name(known) == name), None)


def reading(text: str) -> str:
    """What a person sees of a name: without case, width, spaces at the ends and invisible marks."""
    wide = unicodedata.normalize("NFKC", text)
    seen = "".join(c for c in wide if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFKC", " ".join(seen.split()).casefold())


def alike_names(names: Collection[str]) -> list[list[str]]:
    """Groups of two or more names that a person would read as one."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(reading(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def sorted_names(classes: Collection[str | None]) -> tuple[str, ...]:
    """Each name once, whole numbers by their value."""
    names = {name for name in classes if name is not None}
    if all(WHOLE_NUMBER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def shown_names(names: Sequence[str]) -> str:
    """Some names for a message, each in quotes."""
    shown = [quoted(name) for name in names[:MAX_SHOWN]]
    more = len(names) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more > 0 else [])])


def quoted(name: str) -> str:
    """A name in quotes, with what cannot be seen escaped."""
    return f"'{name}'" if name == one_line(name) else repr(name)[:100]
