"""Stage `train`: prepared images in; a model bundle and the record of its run out.

This process starts the trainer (`stages.trainer`), watches it, and starts it again when it
freezes; with train.num_processes above 1 the trainers are started by torchrun or Ray. A run that
was stopped, killed or is complete goes on from work/checkpoints/<fingerprint>/.
"""

import signal
import sys
from pathlib import Path
from typing import NoReturn

from vivero.config.load import load_config
from vivero.config.paths import PARAMS, project_dir
from vivero.config.schema import TrainConfig
from vivero.integrity.entry import verified
from vivero.processes import run_stage
from vivero.training.supervision import is_trainer, stop_at_once, supervise

STAGE, MODULE = "train", "vivero.stages.train"


def run(config: TrainConfig, root: Path) -> None:
    """Train in processes of their own and wait for their end.

    Raises:
        TrainingError: When a trainer was killed, or froze once too often.
        SystemExit: When training failed and said why, or was asked to stop.
    """
    signal.signal(signal.SIGTERM, _end_on_signal)
    if config.engine == "ray" and config.num_processes > 1:
        from vivero.stages import trainer

        trainer.run_on_ray(config, root)
        return
    supervise(
        trainer_command(config),
        root,
        num_processes=config.num_processes,
        heartbeat_s=config.heartbeat_s,
        max_restarts=config.max_restarts,
        hint="see train.num_micro_batches and train.gradient_checkpointing in params.yaml; "
        "run the same command again to resume",
    )


def trainer_command(config: TrainConfig) -> list[str]:
    """What starts the trainers on this machine."""
    if config.num_processes == 1:
        return [sys.executable, "-m", MODULE]
    from vivero.training.distributed import torchrun_command

    return torchrun_command(MODULE, config.num_processes, config.max_restarts)


def _end_on_signal(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> None:
    """Run the stage as dvc.yaml does, be one of its trainers, or profile with --profile."""
    if sys.argv[1:] == ["--profile"]:
        from vivero.stages import trainer

        run_stage(STAGE, lambda: trainer.profile(project_dir()))
        return
    if is_trainer():
        signal.signal(signal.SIGTERM, stop_at_once)  # importing torch takes seconds
        from vivero.stages import trainer

        trainer.main()
        return

    run_stage(STAGE, verified(STAGE, lambda root: run(load_config(root / PARAMS).train, root)))


if __name__ == "__main__":
    main()
