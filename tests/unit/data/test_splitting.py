"""Which split an image belongs to depends on its pixels alone."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from vivero.data.splitting import SplitRule, split_of, split_rule

hashes = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
RULE = SplitRule(validation_share=0.05, test_share=0.1)


def hash_of(index: int) -> str:
    return hashlib.sha256(str(index).encode()).hexdigest()


@given(old=st.sets(hashes, min_size=1), new=st.sets(hashes))
def test_adding_images_never_moves_an_image(old: set[str], new: set[str]):
    before = {pixels: split_of(pixels, "train", RULE) for pixels in old}
    after = {pixels: split_of(pixels, "train", RULE) for pixels in old | new}
    assert all(after[pixels] == split for pixels, split in before.items())


@given(pixels=hashes, share=st.floats(0.01, 0.49), larger=st.floats(0.01, 0.49))
def test_a_larger_share_only_adds(pixels: str, share: float, larger: float):
    low, high = sorted((share, larger))
    if split_of(pixels, "train", SplitRule(low, 0.1)) == "validation":
        assert split_of(pixels, "train", SplitRule(high, 0.1)) == "validation"
    if split_of(pixels, "train", SplitRule(0.1, low)) == "test":
        assert split_of(pixels, "train", SplitRule(0.1, high)) == "test"


def test_shares_are_kept():
    splits = [split_of(hash_of(index), "train", RULE) for index in range(20_000)]
    assert abs(splits.count("validation") / 20_000 - 0.05) < 0.006  # four standard deviations
    assert abs(splits.count("test") / 20_000 - 0.1) < 0.009


@given(pixels=hashes)
def test_splits_of_the_source_are_kept(pixels: str):
    assert split_of(pixels, "test", RULE) == "test"
    assert split_of(pixels, "validation", RULE) == "validation"
    rule = split_rule({"train", "test", "validation"}, 0.05, 0.1)
    assert split_of(pixels, "train", rule) == "train"


def test_only_missing_splits_are_made():
    assert split_rule({"train", "test"}, 0.05, 0.1) == SplitRule(0.05, 0.0)
    assert split_rule({"train"}, 0.05, 0.1) == RULE
