"""Text from a person (class names, file names), as one line that is safe to show. Pure.

Pages, pictures, tables and terminals get their text from here, so that a line break, a terminal's
control sequence or an override of the writing direction never changes what is around it.
"""

import unicodedata

MAX_CHARACTERS = 80
EMPTY = "(empty)"
# Control and format characters, halves of surrogate pairs, unassigned ones, line separators.
UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
JOINERS = "\u200c\u200d"  # Persian words and composed emoji need them


def one_line(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    r"""The text on one line of at most max_characters, with escapes such as \n for what is unseen.

    Returns:
        Never an empty text: `EMPTY` stands for one without any visible character.
    """
    return bounded("".join(map(_seen, text)).strip(), max_characters) or EMPTY


def bounded(text: str, max_characters: int) -> str:
    """The text, cut off with an ellipsis where it is longer than max_characters."""
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"


def escaped(character: str) -> str:
    r"""A character in ASCII, such as \n, \x1b, \u202e or \U0001f600."""
    return character.encode("unicode_escape").decode()


def _seen(character: str) -> str:
    is_unseen = unicodedata.category(character) in UNSEEN and character not in JOINERS
    return escaped(character) if is_unseen else character
