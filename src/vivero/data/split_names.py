"""Which folder names stand for splits. Pure."""

import re
import unicodedata

from vivero.data.shards import Split

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",  # as Hugging Face's imagefolder has it
    "evaluation": "test",
}
FILLERS = {"set", "sets", "image", "images", "img", "imgs", "data", "dataset", "file", "files"}
LETTERS = re.compile(r"[^\W\d_]+")
CAPITALS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SPLIT, _FILLER = "|".join(SPLIT_NAMES), "|".join(sorted(FILLERS))
JOINED = re.compile(rf"^(?:({_SPLIT})({_FILLER})|({_FILLER})({_SPLIT}))$")


def split_of_name(name: str) -> Split | None:
    """The split whose name this is, in any case; None for any other name."""
    return SPLIT_NAMES.get(_normalized(name).casefold())


def split_in_name(name: str) -> Split | None:
    """The one split that a name mentions, as in `cars_test` or `trainA`; None for no or many."""
    splits = {SPLIT_NAMES[word] for word in _words(name) if word in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else None


def is_numbered_split(name: str) -> bool:
    """Whether a name is a split with nothing but a number, letter or word such as `images`."""
    others = [word for word in _words(name) if word not in SPLIT_NAMES and word not in FILLERS]
    return split_in_name(name) is not None and all(len(word) == 1 for word in others)


def _words(name: str) -> list[str]:
    """Words in lower case: parted by marks and digits, by capitals, and `trainset` in two."""
    text = CAPITALS.sub(" ", _normalized(name))
    words = (word.casefold() for word in LETTERS.findall(text))
    return [part for word in words for part in JOINED.sub(r"\1\3 \2\4", word).split()]


def _normalized(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip()
