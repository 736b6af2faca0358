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
LETTERS = re.compile(r"[^\W\d_]+")


def split_of_name(name: str) -> Split | None:
    """The split whose name this is, in any case; None for any other name."""
    return SPLIT_NAMES.get(_folded(name))


def split_in_name(name: str) -> Split | None:
    """The one split that a name mentions, as in `train2017` or `cars_test`; None for no or many."""
    words = LETTERS.findall(_folded(name))
    splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()
