"""A run that stops early and was killed on the way stops at the same moment, with the same best."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PROGRAM = """
import json, sys, torch
from pathlib import Path
from tests.proofs import forked
from tests.proofs.faults import Fault
from vivero.training.checkpoints import CheckpointStore
torch.set_num_threads(1)
folder = Path(sys.argv[1])
changes = {
    "total_images": 800, "early_stopping_images": 48, "validate_every_images": 16,
    "checkpoint_every_images": 16, "learning_rate": 1.0, "learning_rate_schedule": "constant",
    "max_loss_jump": 1e9, "preview_every_images": 800, "keep_checkpoints": 1,
}
def end_of(name):
    final = forked.final_of(folder / name, **changes)
    best = CheckpointStore(folder / name / "checkpoints", keep=1).best()
    return final, best.facts["images_seen"], best.facts["validation_loss"], best.facts["best"]
whole, best_at, *best = end_of("whole")
kept = sorted(path.name for path in (folder / "whole/checkpoints").iterdir())
result = {"best_at": best_at, "kept": kept, "trials": []}
for at in (best_at - 8, best_at + 8, best_at + 40):
    if at > 0:
        name, fault = f"{at}", Fault("forward", at, after_checkpoint=at // 16 * 16)
        exit_code = forked.struck(folder / name, fault, **changes)
        final, *found = end_of(name)
        is_same = [final.sha256, *found] == [whole.sha256, best_at, *best]
        result["trials"].append([at, exit_code, final.resumed_from, is_same])
print(json.dumps(result))
"""


@pytest.mark.slow
def test_killed_before_and_after_its_best_moment_it_ends_the_same(tmp_path: Path):
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    result = json.loads(process.stdout)
    best_at, trials = result["best_at"], result["trials"]
    stopped_at = best_at + 48
    assert result["kept"] == [f"{best_at:010d}", f"{stopped_at:010d}"], "the best and the newest"
    assert len(trials) >= 2
    for at, exit_code, resumed_from, is_same in trials:
        assert exit_code == -signal.SIGKILL, at
        assert resumed_from == ([at // 16 * 16] if at >= 16 else []), at
        assert is_same, at
