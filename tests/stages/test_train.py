"""The stage `train` for real, on a few prepared images."""

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from vivero.config.schema import Config
from vivero.data.prepared import (
    INDEX_NAME,
    PreparedCard,
    images_path,
    labels_path,
    write_prepared_card,
)
from vivero.errors import BundleError, DataError
from vivero.files import read_json, sha256_of_file
from vivero.registry.bundle import load_bundle
from vivero.stages import sample, trainer

CLASS_NAMES = ["dot", "ring"]
REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


def write_prepared(root: Path, class_names: list[str], num_validation: int = 10) -> None:
    images_dir = root / "artifacts" / "prepare_data" / "images"
    images_dir.mkdir(parents=True)
    counts = {"train": 30, "validation": num_validation, "test": 10}
    rng = np.random.default_rng(0)
    rows = []
    for split, count in counts.items():
        labels = np.arange(count) % len(class_names) if class_names else np.full(count, -1)
        np.save(images_path(images_dir, split), rng.integers(0, 256, (count, 1, 16, 16), np.uint8))
        np.save(labels_path(images_dir, split), labels.astype(np.int64))
        rows += [{"key": f"{split}/{row}", "split": split, "row": row} for row in range(count)]
    pq.write_table(pa.Table.from_pylist(rows), images_dir / INDEX_NAME)
    write_prepared_card(
        images_dir, PreparedCard("dots", "MIT", class_names, 1, 16, "0" * 64, counts)
    )


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_prepared(tmp_path, CLASS_NAMES)
    return tmp_path


def test_writes_everything_that_later_stages_read(root: Path, tiny_config: Config):
    trainer.run(tiny_config, root)
    out_dir = root / "artifacts" / "train"
    summary = read_json(out_dir / "summary.json")
    bundle = load_bundle(out_dir / "bundle")

    assert summary["stage"] == "train"
    assert summary["total_images"] == 64
    assert summary["resumed_from"] == []
    assert summary["weights_sha256"] == bundle.weights_sha256
    assert summary["weights_sha256"] == sha256_of_file(
        out_dir / "bundle/unet/diffusion_pytorch_model.safetensors"
    )
    assert bundle.class_names == CLASS_NAMES
    assert bundle.lineage.seed == tiny_config.train.seed
    assert read_json(out_dir / "run.json")["run_key"]
    assert sorted(p.name for p in (out_dir / "previews").iterdir()) == [
        *("0000000032.png", "0000000064.png"),
    ]
    for name in ("loss", "validation"):
        with (out_dir / "curves" / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [int(row["images_seen"]) for row in rows][-1] == 64
        assert float(rows[-1]["loss"]) == pytest.approx(summary[SUMMARY_OF[name]])
    assert (out_dir / "journal.jsonl").stat().st_size > 0


SUMMARY_OF = {"loss": "train_loss", "validation": "validation_loss"}


def test_again_repeats_no_step_and_writes_the_same_weights(root, tiny_config, caplog):
    trainer.run(tiny_config, root)
    first = read_json(root / "artifacts/train/summary.json")["weights_sha256"]
    caplog.set_level("INFO")
    trainer.run(tiny_config, root)
    assert "no step is repeated" in caplog.text
    assert read_json(root / "artifacts/train/summary.json")["weights_sha256"] == first


def test_other_sampling_settings_need_no_new_training(
    root: Path, config_factory: Callable[..., Config], caplog
):
    caplog.set_level("INFO")
    for guidance in (1.0, 3.0):
        config = config_factory({"sampling.guidance": guidance})
        trainer.run(config, root)
        sample.run(config, root)
        bundle = load_bundle(root / "artifacts/sample/bundle")
        assert bundle.sampling_defaults["guidance"] == guidance
        trained = load_bundle(root / "artifacts/train/bundle")
        assert bundle.weights_sha256 == trained.weights_sha256
        with pytest.raises(BundleError, match="output of a training"):
            trained.sampling_defaults  # noqa: B018
    assert "no step is repeated" in caplog.text
    stages = YAML(typ="safe").load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert stages["train"]["params"] == ["train"]
    assert "sampling" in stages["sample"]["params"]


def test_images_without_labels_make_a_model_without_classes(tmp_path: Path, config_factory):
    write_prepared(tmp_path, [])
    trainer.run(config_factory({"train.total_images": 32}), tmp_path)
    assert load_bundle(tmp_path / "artifacts/train/bundle").class_names == []


def test_an_empty_split_says_what_to_do(tmp_path: Path, tiny_config: Config):
    write_prepared(tmp_path, CLASS_NAMES, num_validation=0)
    with pytest.raises(DataError, match="the validation split of dots has no image"):
        trainer.run(tiny_config, tmp_path)


def write_params(root: Path, config: Config) -> None:
    with (root / "params.yaml").open("w") as file:
        YAML().dump(config.model_dump(by_alias=True, mode="json"), file)


def start_stage(root: Path, config: Config) -> "subprocess.Popen[str]":
    write_params(root, config)
    return subprocess.Popen(
        [sys.executable, "-m", "vivero.stages.train"],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_in(folder: Path) -> list[int]:
    """Processes whose current folder is this one."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if link.readlink() == folder:
                found.append(int(link.parent.name))
    return found


def saved_in(root: Path) -> list[int]:
    """The clocks of the checkpoints."""
    return sorted(int(p.parent.name) for p in root.glob("work/checkpoints/*/0*/manifest.json"))


def wait_while(is_so: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait while it is so and the process runs."""
    while process.poll() is None and is_so():
        time.sleep(0.05)


def pid_of(who: str, supervisor_pid: int) -> int:
    """The supervisor itself, its torchrun, or the first trainer."""
    children = psutil.Process(supervisor_pid).children(recursive=True)
    commands = {child.pid: " ".join(child.cmdline()) for child in children}
    pids = {
        "torchrun": [pid for pid, line in commands.items() if "torch.distributed.run" in line],
        "trainer": [
            pid for pid, line in commands.items() if line.endswith("-m vivero.stages.train")
            and "torch.distributed.run" not in line
        ],
        "supervisor": [supervisor_pid],
    }  # fmt: skip
    return pids[who][0]


ENDLESS = {"train.total_images": 800_000, "train.validate_every_images": 800_000}
STOPPED = re.compile(
    r"train: stopped by SIGTERM after ([\d,]+) images; a checkpoint is saved, "
    r"run the same command again to resume"
)
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("num_processes", "who"),
    [
        (1, "supervisor"),
        pytest.param(1, "trainer", marks=slow),
        pytest.param(2, "supervisor", marks=slow),
        pytest.param(2, "torchrun", marks=slow),
        pytest.param(2, "trainer", marks=slow),
    ],
)
def test_sigterm_saves_this_very_step_and_exits_at_once(
    root: Path, config_factory: Callable[..., Config], num_processes: int, who: str
):
    rarely = {"train.checkpoint_every_images": 80_000, "train.preview_every_images": 800_000}
    config = config_factory({**ENDLESS, **rarely, "train.num_processes": num_processes})
    process = start_stage(root, config)
    journals = "work/checkpoints/*/journal.jsonl"
    wait_while(
        lambda: not any("train/loss" in path.read_text() for path in root.glob(journals)), process
    )
    os.kill(pid_of(who, process.pid), signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 143, said[-3000:]
    images_seen = [int(number.replace(",", "")) for number in STOPPED.findall(said)]
    assert len(images_seen) == 1, said[-3000:]
    assert saved_in(root) == images_seen


def test_sigterm_before_the_first_step_ends_at_once(
    root: Path, config_factory: Callable[..., Config]
):
    process = start_stage(root, config_factory(ENDLESS))

    def is_not_ready() -> bool:  # the handler of SIGTERM, bit 14, is there before torch is
        with contextlib.suppress(OSError, IndexError):
            status = Path(f"/proc/{pid_of('trainer', process.pid)}/status").read_text()
            return not int(status.partition("SigCgt:")[2].split()[0], 16) >> 14 & 1
        return True

    wait_while(is_not_ready, process)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 143, said[-3000:]
    assert "stopped by SIGTERM between steps; run the same command again to resume" in said
    assert saved_in(root) == []


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_stopping_the_stage_leaves_a_checkpoint_and_no_process(
    root: Path, config_factory: Callable[..., Config], num_processes: int, number: int
):
    process = start_stage(root, config_factory({**ENDLESS, "train.num_processes": num_processes}))
    wait_while(lambda: not saved_in(root), process)
    process.send_signal(number)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), said[-2000:]
    if number != signal.SIGKILL:
        assert "run the same command again to resume" in said
    assert saved_in(root)
    deadline = time.monotonic() + 8
    while processes_in(root) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes_in(root)


@pytest.mark.slow
def test_two_processes_by_torchrun_leave_the_same_outputs(
    root: Path, config_factory: Callable[..., Config]
):
    weights = []
    for num_processes in (1, 2):
        config = config_factory(
            {"train.num_processes": num_processes, "train.model.channels": [16]}
        )
        write_params(root, config)
        process = subprocess.run(
            [sys.executable, "-m", "vivero.stages.train"],
            cwd=root,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr[-3000:]
        weights.append(load_bundle(root / "artifacts/train/bundle").denoiser.network.state_dict())
    differences = [float((weights[0][n] - weights[1][n]).abs().max()) for n in weights[0]]
    sys.stdout.write(json.dumps(max(differences)))
    assert max(differences) < 1e-5
