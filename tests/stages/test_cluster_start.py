"""Started by a cluster's own torchrun, as infra/ does: the world says how many train."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stages.test_train import CLASS_NAMES, write_params, write_prepared
from vivero.config.schema import Config
from vivero.errors import ConfigError
from vivero.files import read_json
from vivero.stages import trainer
from vivero.training.distributed import Workers, alone
from vivero.training.supervision import RESTARTABLE


@pytest.mark.slow
def test_two_processes_train_though_the_settings_say_one(
    tmp_path: Path, config_factory: Callable[..., Config]
):
    write_prepared(tmp_path, CLASS_NAMES)
    config = config_factory({})
    assert config.train.num_processes == 1
    write_params(tmp_path, config)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    process = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", "-m", "vivero.stages.train"],
        cwd=tmp_path,
        env={**os.environ, **RESTARTABLE, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    summary = read_json(tmp_path / "artifacts/train/summary.json")
    assert summary["total_images"] == config.train.total_images
    assert summary["other_surroundings"] == []


def test_a_batch_that_does_not_divide_among_them_is_refused(config_factory):
    three = Workers(0, 3, alone().device)
    with pytest.raises(ConfigError, match=r"3 processes train: batch_images must be a multiple"):
        trainer.config_of(config_factory({}).train, three)


def test_cutting_up_needs_several(config_factory):
    with pytest.raises(ConfigError, match="sharding: full needs several processes"):
        trainer.config_of(
            config_factory({"train.model.name": "unet", "train.sharding": "full"}).train, alone()
        )
