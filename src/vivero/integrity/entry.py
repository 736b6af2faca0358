"""The entry of every stage: nothing is read before it was hashed anew; and its exit: a manifest."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from vivero.config.paths import project_dir
from vivero.integrity.artifacts import damaged_artifacts
from vivero.integrity.clone import check_clone
from vivero.integrity.damage import Damage, integrity_error
from vivero.integrity.data_folder import DATA, damaged_data
from vivero.integrity.hashing import files_below
from vivero.integrity.manifests import write_manifest
from vivero.integrity.pipeline import Pipeline, read_pipeline

log = logging.getLogger(__name__)


def verified(stage: str, body: Callable[[Path], object]) -> Callable[[], None]:
    """The body of a stage between its two checks, for `run_stage`.

    Args:
        stage: Its name. One of dvc.yaml leaves a manifest; a command outside DVC does not.
        body: Takes the top of the repository.
    """

    def run() -> None:
        root = project_dir()
        check_clone(root)
        verify_inputs(root, stage)
        body(root)
        declared = read_pipeline(root).stages.get(stage)
        if declared is not None:
            write_manifest(root, declared)

    return run


def verify_inputs(root: Path, stage: str) -> None:
    """Hash all data and artifacts that a stage reads; the cost is said in the log.

    Raises:
        IntegrityError: When one is not what was made; names each, and what to do.
    """
    started_at = time.monotonic()
    pipeline = read_pipeline(root)
    inputs = inputs_of(root, stage, pipeline)
    damages = damages_of(root, inputs, pipeline)
    if damages:
        raise integrity_error(damages)
    if inputs:
        sizes = [
            file.stat().st_size for path in inputs for file in files_below(root / path).values()
        ]
        log.info(
            "%s: the %d files it reads (%.0f MB) are what was made; hashed in %.2f s",
            *(stage, len(sizes), sum(sizes) / 1e6, time.monotonic() - started_at),
        )


def inputs_of(root: Path, stage: str, pipeline: Pipeline) -> tuple[str, ...]:
    """What a stage reads: its deps; a command outside DVC, every artifact of DVC that is here."""
    declared = pipeline.stages.get(stage)
    if declared is not None:
        return declared.inputs
    made = (path for path in pipeline.locked if path.startswith("artifacts/"))
    return tuple(path for path in made if (root / path).exists())


def damages_of(root: Path, inputs: tuple[str, ...], pipeline: Pipeline) -> list[Damage]:
    """All of data/ and artifacts/ among the inputs that is not what was made."""
    in_artifacts = [path for path in inputs if path.split("/")[0] != DATA]
    damages = damaged_data(root) if DATA in inputs else []
    return damages + damaged_artifacts(root, pipeline, in_artifacts)
