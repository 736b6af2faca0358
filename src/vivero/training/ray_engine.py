"""The door to Ray Train: our own training on the workers of a Ray cluster.

Ray starts the workers, joins them into a process group and starts the whole group again when one is
lost. What was learned until then is in our own checkpoints, so Ray is given none. It is an extra
(`pip install vivero[ray]`), and imported only when it is asked for.
"""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch

from vivero.errors import ConfigError, TrainingError, ViveroError
from vivero.training.distributed import BACKENDS

RUN_NAME = "ray_train"
PATIENCE_S = 10.0  # for a cluster to answer
DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing reports home
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # a busy machine takes long to import torch
    # Two actors of Ray Train repeat what matters to its developers alone.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "State API may be temporarily unavailable|PreemptionWatcher",
}


def train_on_ray(
    body: Callable[[], None], num_workers: int, max_failures: int, storage_dir: Path
) -> None:
    """Call body in every worker, and again in all of them whenever one is lost.

    RAY_ADDRESS names the cluster; without it one is started on this machine and ended afterwards.
    When body is called, `torch.distributed` is initialised (NCCL with GPUs, gloo without), and
    RANK, LOCAL_RANK and WORLD_SIZE are set. It does not run in the main thread of its process, so
    it hears no signals.

    Args:
        body: What a worker does, importable there by its name; it resumes from its checkpoints.
        num_workers: How many train together, each with a GPU where there are some.
        max_failures: How often all are started again.
        storage_dir: Folder for Ray's own notes on the run, seen by every node.

    Raises:
        ConfigError: When Ray is not installed, or no cluster answers at RAY_ADDRESS.
        ViveroError: What a worker raised of ours, as it raised it.
        TrainingError: When workers were lost, or failed otherwise, more than max_failures times.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        from ray.train import (
            FailureConfig,
            LoggingConfig,
            RunConfig,
            ScalingConfig,
            TrainingFailedError,
        )
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise ConfigError("Ray is not installed; run: pip install 'vivero[ray]'") from error

    start_or_join(num_workers)
    use_gpu = torch.cuda.is_available()
    try:
        TorchTrainer(
            body,
            torch_config=TorchConfig(backend=BACKENDS["cuda" if use_gpu else "cpu"]),
            scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
            run_config=RunConfig(
                name=RUN_NAME,
                storage_path=str(storage_dir),
                failure_config=FailureConfig(max_failures=max_failures),
                # Its errors are tracebacks of workers; they come out below, in one sentence.
                logging_config=LoggingConfig(log_level="CRITICAL"),
            ),
        ).fit()
    except TrainingFailedError as error:
        raise in_one_sentence(error, max_failures) from None
    finally:
        ray.shutdown()


def start_or_join(num_workers: int) -> None:
    """Connect to the cluster at RAY_ADDRESS, or start one here that has room for the workers.

    Raises:
        ConfigError: When no cluster answers.
    """
    import ray

    address = os.environ.get("RAY_ADDRESS", "local")
    num_cpus = max(num_workers, os.cpu_count() or 1) if address == "local" else None
    # Workers stay in the folder of this process, so that a path means the same to all.
    env = {"RAY_CHDIR_TO_TRIAL_DIR": "0"}
    try:
        knock_at(address)
        ray.init(address, num_cpus=num_cpus, include_dashboard=False, runtime_env={"env_vars": env})
    except OSError as error:  # of the network
        raise ConfigError(f"no Ray cluster answers at RAY_ADDRESS={address}: {error}") from error


def knock_at(address: str) -> None:
    """Connect once to an address like head:6379, because Ray would try for many minutes.

    Raises:
        OSError: When nothing listens there.
    """
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=PATIENCE_S).close()


def in_one_sentence(error: Exception, max_failures: int) -> ViveroError:
    """Our own error that a worker raised, or else one that names what happened to whom."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        if isinstance(failure, ViveroError):
            return failure
    whom = ", ".join(f"worker {rank}: {first_line(failures[rank])}" for rank in sorted(failures))
    return TrainingError(
        f"training on Ray failed and was started again {max_failures} times ("
        f"{whom or first_line(error)}); correct the cause and run the same command again, "
        f"it resumes from the last checkpoint"
    )


def first_line(error: Exception) -> str:
    """What an error is and says, without what Ray adds on further lines."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
