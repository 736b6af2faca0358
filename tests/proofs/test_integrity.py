"""No broken byte of data or of an artifact is ever used: it is found before the stage begins.

The tests here strike a tiny pipeline; `make prove-integrity` strikes 200 objects of the real one.
"""

import itertools
import random
from pathlib import Path

import pytest

from tests.proofs.stored_objects import (
    DVC_SAW,
    ENTRY_SAW,
    seen_by,
    struck_cache,
    targets_of,
    ways_of,
)
from tests.proofs.tiny_pipeline import make_pipeline

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what DVC imports
READERS = {
    "data": "prepare_data",
    "artifacts/prepare_data/images": "train",
    "artifacts/prepare_data/manifest.json": "train",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pipeline(tmp_path_factory.mktemp("made") / "pipeline")


def test_every_way_to_strike_every_object_of_the_cache_is_seen_before_the_stage(made: Path):
    rng = random.Random(0)
    targets = targets_of(made, READERS)
    whole = [seen_by(made, target, by_pull=False) for target in targets]
    assert set(whole) == {None}, "a whole object must stop nobody"
    seen = {}
    for target, number in itertools.product(targets, range(2)):
        way = rng.choice(ways_of(target))
        with struck_cache(made, target, way, targets, rng):
            seen[target.oid, way, number] = seen_by(made, target, by_pull=False)
    assert len(seen) >= 12
    assert set(seen.values()) <= {ENTRY_SAW, DVC_SAW}, seen
    assert ENTRY_SAW in seen.values()
