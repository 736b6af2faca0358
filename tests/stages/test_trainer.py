"""What a complete run leaves: which average, of which moment; and on how many processes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.model_versions import read
from tests.prepared_images import write_prepared
from vivero.code_digest import PACKAGE_DIR
from vivero.config.schema import Config
from vivero.registry.bundle import load_bundle
from vivero.stages import trainer
from vivero.training import fingerprint
from vivero.training.distributed import alone
from vivero.training.inputs import read_inputs
from vivero.training.validation import validation_loss

CLASS_NAMES = ["shirt", "shoe", "bag"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")
Factory = Callable[..., Config]


def test_the_better_average_is_taken_and_the_summary_says_both(root: Path, tiny_config: Config):
    write_prepared(root, CLASS_NAMES)
    trainer.run(tiny_config, root)
    summary = read(root, "train/summary.json")
    losses = summary["validation_loss_by_halflife"]
    assert set(losses) == {"16", "8"}
    assert losses[str(summary["ema_halflife_images"])] == min(losses.values())
    assert summary["validation_loss"] == min(losses.values())

    inputs = read_inputs(tiny_config, root)
    rig = trainer.new_rig(trainer.new_state(inputs, alone()), inputs, alone())
    bundle = load_bundle(root / "artifacts/train/bundle")
    loss = validation_loss(bundle.denoiser, rig.objective.weight, trainer.new_bank(inputs, rig))
    assert loss.mean == pytest.approx(min(losses.values()), rel=1e-6)


def test_after_an_early_stop_the_best_moment_is_what_is_made(root: Path, config_factory: Factory):
    write_prepared(root, CLASS_NAMES)
    config = config_factory(
        {"train.early_stopping_images": 32, "train.validate_every_images": 16,
         "train.total_images": 1600, "train.learning_rate": 0.3, "train.max_loss_jump": 1e9,
         "train.learning_rate_schedule": "constant", "train.preview_every_images": 1600,
         "train.ema_halflives_images": [16]}
    )  # fmt: skip
    trainer.run(config, root)
    summary = read(root, "train/summary.json")
    lines = (root / "artifacts/train/journal.jsonl").read_text().splitlines()
    losses = {
        entry["images_seen"]: entry["values"]["validation/loss"]
        for entry in map(json.loads, lines)
        if "validation/loss" in entry.get("values", {})
    }
    best_at = min(losses, key=losses.__getitem__)
    assert max(losses) == best_at + 32 < 1600
    assert summary["total_images"] == best_at
    assert summary["validation_loss"] == pytest.approx(losses[best_at])


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_with_two(root: Path, config_factory: Factory):
    write_prepared(root, CLASS_NAMES)
    trainer.run(config_factory(), root)
    (run_dir,) = (root / "work/checkpoints").iterdir()
    shutil.rmtree(run_dir / "0000000064")
    two = config_factory({"train.num_processes": 2})
    with (root / "params.yaml").open("w") as file:
        YAML().dump(two.model_dump(by_alias=True, mode="json"), file)
    process = subprocess.run(
        [sys.executable, "-m", "vivero.stages.train"],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert "processes 1 -> 2" in process.stderr, "that it is not exact to the bit is said"
    assert list((root / "work/checkpoints").iterdir()) == [run_dir]
    assert read(root, "train/summary.json")["resumed_from"] == [48]


def test_a_complete_checkpoint_of_other_code_is_not_taken(
    root: Path, tiny_config: Config, tmp_path_factory, monkeypatch, caplog
):
    """The trainer itself is what changes: it used to be left out of the fingerprint."""
    write_prepared(root, CLASS_NAMES)
    caplog.set_level("INFO")
    trainer.run(tiny_config, root)
    first = read(root, "train/run.json")["run_key"]

    code = tmp_path_factory.mktemp("code") / "vivero"
    shutil.copytree(PACKAGE_DIR, code, ignore=shutil.ignore_patterns("__pycache__"))
    path = code / "stages" / "trainer.py"
    changed = path.read_text().replace("torch.manual_seed(config.seed)", "torch.manual_seed(1)")
    assert changed != path.read_text()
    path.write_text(changed)
    monkeypatch.setattr(fingerprint, "PACKAGE_DIR", code)
    caplog.clear()
    trainer.run(tiny_config, root)
    assert "training starts at zero" in caplog.text
    assert "no step is repeated" not in caplog.text
    assert read(root, "train/run.json")["run_key"] != first

    monkeypatch.undo()
    caplog.clear()
    trainer.run(tiny_config, root)
    assert "no step is repeated" in caplog.text
    assert read(root, "train/run.json")["run_key"] == first
