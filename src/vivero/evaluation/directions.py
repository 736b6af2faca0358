"""Which direction of a metric is better, and which metrics are shares: by its name alone.

A report is not asked: its file can come from anyone.
"""

from typing import Literal

HIGHER_IS_BETTER = (
    "cas.",
    "coverage.",
    "density.",
    "is.",
    "label_agreement.",
    "nearest_ratio.",
    "precision.",
    "recall.",
)
SHARES = (  # between 0 and 1
    "cas.",
    "copied_share.",
    "coverage.",
    "label_agreement.",
    "near_equal_share.",
    "precision.",
    "recall.",
    "unusable_share.",
)


def better_of(name: str) -> Literal["lower", "higher"]:
    """Which values of a metric are better."""
    return "higher" if name.startswith(HIGHER_IS_BETTER) else "lower"


def is_share(name: str) -> bool:
    """Whether a metric is a share, between 0 and 1."""
    return name.startswith(SHARES)
