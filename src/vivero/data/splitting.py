"""Which split an image belongs to: a function of its pixels and of nothing else. Pure.

An image therefore stays where it is when others are added, removed, renamed or reordered.
"""

from dataclasses import dataclass

from vivero.data.shards import Split

HASH_DIGITS = 13  # hexadecimal, so 52 bits: what a float holds exactly, and always below 1


@dataclass(frozen=True)
class SplitRule:
    """How images of the source's train split are shared out.

    A share is 0 where the source has a split of its own. The hash of an image is a number in
    [0, 1): validation takes the low end, test the high end, so that changing one share moves no
    image in or out of the other.
    """

    validation_share: float
    test_share: float


def split_rule(source_splits: set[Split], validation_share: float, test_share: float) -> SplitRule:
    """The rule for a source that has these splits already."""
    return SplitRule(
        0.0 if "validation" in source_splits else validation_share,
        0.0 if "test" in source_splits else test_share,
    )


def split_of(pixel_sha256: str, source_split: Split, rule: SplitRule) -> Split:
    """The split of one image.

    Args:
        pixel_sha256: Hex sha256 of its pixels.
        source_split: Where the source has it; validation and test are kept.
        rule: How the source's train split is shared out.
    """
    if source_split != "train":
        return source_split
    position = int(pixel_sha256[:HASH_DIGITS], 16) / 16**HASH_DIGITS
    if position < rule.validation_share:
        return "validation"
    return "test" if position >= 1 - rule.test_share else "train"
