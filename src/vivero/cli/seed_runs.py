"""The finished trainings of `vivero seeds`, kept in work/seeds/NAME/SEED until they are deleted.

Each folder holds the summary of the last stage, the settings that made it, and for `evaluate` the
report with its values per image: a later command adds seeds to these, and `simulate-gates` judges
them against each other.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from vivero.config.paths import PARAMS, artifacts_dir, work_dir
from vivero.errors import DataError
from vivero.evaluation.per_image import PER_IMAGE_NAME, load_per_image
from vivero.files import read_json, write_json
from vivero.registry.gates import ruler_hash
from vivero.registry.seed_variance import recipe_sha256

SUMMARY, REPORT, SETTINGS = "summary.json", "metrics.json", "settings.json"
OF_THE_MACHINE = {"seconds", "images_per_s"}  # and not of the model


@dataclass(frozen=True)
class SeedRun:
    """One finished training.

    Attributes:
        seed: Of the training.
        stage: The last stage that ran.
        recipe_sha256: Of its settings but the seed.
        figures: What the stage measured: fractions of the model, no counts and no times.
        report: For evaluate, its metrics.json with the values per image; else empty.
    """

    seed: int
    stage: str
    recipe_sha256: str
    figures: dict[str, float]
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def conditions(self) -> tuple[str, str, str]:
        """What must be equal for two seeds to belong together: stage, recipe, ruler."""
        return self.stage, self.recipe_sha256, ruler_hash(self.report) if self.report else ""


def runs_dir(root: Path, name: str) -> Path:
    """Folder of the finished trainings of a name."""
    return work_dir(root) / "seeds" / name


def take_run(source: Path, root: Path, name: str, seed: int, stage: str) -> SeedRun:
    """Copy the results of the experiment NAME-SEED of a clone to work/seeds/NAME/SEED.

    Args:
        source: Top of the clone whose DVC holds the experiment; may be root.
        root: Top of this repository.
        name: Of the trainings.
        seed: Of the training.
        stage: The last stage that ran.

    Raises:
        DataError: When the clone has no such experiment, or it did not finish.
    """
    revision = f"{name}-{seed}"
    made_dir = artifacts_dir(source, stage).relative_to(source)
    names = [SUMMARY, REPORT, PER_IMAGE_NAME] if stage == "evaluate" else [SUMMARY]
    folder = runs_dir(root, name) / str(seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as part:
        new_dir = Path(part) / "run"
        new_dir.mkdir()
        try:
            params = _settings(read_tracked(source, revision, PARAMS))
            for file_name in names:
                content = read_tracked(source, revision, (made_dir / file_name).as_posix())
                (new_dir / file_name).write_bytes(content)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{source} has no finished experiment {revision} ({error}); `dvc exp show` there "
                f"lists them, `vivero seeds {seed} ... --name {name} --keep` makes and keeps them"
            ) from error
        settings = {"stage": stage, "recipe_sha256": recipe_sha256(params)}
        write_json(new_dir / SETTINGS, settings)
        run = _read_run(new_dir, seed)
        if folder.exists():
            folder.rename(Path(part) / "former")
        new_dir.rename(folder)
    return run


def read_tracked(source: Path, revision: str, path: str) -> bytes:
    """A file of a revision of a clone, from git or from DVC's cache.

    Raises:
        OSError, ValueError: When there is none.
    """
    import dvc.api
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        return bytes(dvc.api.read(path, repo=str(source), rev=revision, mode="rb"))
    except (DvcException, SCMError) as error:
        raise ValueError(str(error)) from error


def finished_runs(root: Path, name: str) -> dict[int, SeedRun]:
    """All finished trainings of a name, by seed.

    Raises:
        DataError: When a folder holds what no training left there.
    """
    folders = runs_dir(root, name).glob("[0-9]*")
    seeds = sorted(int(folder.name) for folder in folders if folder.name.isdecimal())
    found = {}
    for seed in seeds:
        folder = runs_dir(root, name) / str(seed)
        try:
            found[seed] = _read_run(folder, seed)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{folder} is not what `vivero seeds` writes ({error!r}); delete that folder and "
                f"run `vivero seeds` with this seed again"
            ) from error
    return found


def _read_run(folder: Path, seed: int) -> SeedRun:
    settings, summary = read_json(folder / SETTINGS), read_json(folder / SUMMARY)
    report: dict[str, Any] = {}
    if settings["stage"] == "evaluate":
        report = dict(read_json(folder / REPORT))
        weights_sha256 = report["lineage"]["weights_sha256"]
        report["per_image"] = load_per_image(
            folder / PER_IMAGE_NAME, report["protocol"]["hash"], weights_sha256
        )
    return SeedRun(seed, settings["stage"], settings["recipe_sha256"], _figures(summary), report)


def _figures(summary: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in summary.items()
        if isinstance(value, float) and name not in OF_THE_MACHINE
    }


def _settings(content: bytes) -> dict[str, Any]:
    """The blocks of params.yaml as plain values."""
    found = json.loads(json.dumps(YAML(typ="safe").load(content.decode())))
    return dict(found)
