"""No broken byte of data or of an artifact is ever used: it is found before the stage begins.

The tests here strike a tiny pipeline; `make prove-integrity` strikes 200 objects of the real one.
"""

import itertools
import os
import random
import re
import subprocess
import sys
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
from tests.proofs.tiny_pipeline import REPOSITORY, make_pipeline

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


LAST_LINE = re.compile(r"(\d+) objects struck, (\d+) seen before a bad byte was read")
NO_WRONG_BYTE = re.compile(r"(\d+) faults in \d+ commands: 0 objects half written, 0 wrong reads")


def last_line_of(module: str, **environment: str) -> str:
    process = subprocess.run(
        [sys.executable, "-m", f"tests.proofs.{module}"],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    return process.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_struck_objects_of_the_real_pipeline_are_all_seen():
    found = LAST_LINE.match(last_line_of("prove_integrity", OBJECTS="200"))
    assert found is not None
    assert found.groups() == ("200", "200")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_three_hundred_faults_of_a_store_lead_to_no_wrong_byte():
    found = NO_WRONG_BYTE.match(last_line_of("prove_s3_faults", FAULTS="300"))
    assert found is not None
    assert int(found[1]) >= 300
