"""Where things lie, relative to the top of the repository."""

from pathlib import Path

from vivero.errors import ConfigError

PARAMS = "params.yaml"
SEED_VARIANCE = "seed_variance.json"  # the spread between seeds of the recipe in params.yaml


def project_dir(start: Path | None = None) -> Path:
    """The nearest folder, from start (default: the current one) upwards, with a params.yaml.

    Raises:
        ConfigError: When there is none.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / PARAMS).is_file():
            return folder
    raise ConfigError(
        f"no {PARAMS} in {here} or above it; run this inside a clone of the repository"
    )


def root_or_none() -> Path | None:
    """`project_dir`, or None outside every clone."""
    try:
        return project_dir()
    except ConfigError:
        return None


def data_dir(root: Path) -> Path:
    """Raw images as Parquet shards; read-only for every stage."""
    return root / "data"


def artifacts_dir(root: Path, stage: str) -> Path:
    """The one folder that a stage writes."""
    return root / "artifacts" / stage


def served_bundle_dir(root: Path) -> Path:
    """The model as it is judged, registered and served: weights and settings of sampling."""
    return artifacts_dir(root, "sample") / "bundle"


def work_dir(root: Path) -> Path:
    """Resumable state, safe to delete: checkpoints, caches, journals not yet sent."""
    return root / "work"


def tracking_root(root: Path) -> Path:
    """Folder of the embedded MLflow store: the repository, also from a copy that DVC made of it.

    `dvc exp run --temp` and `--queue` work in <root>/.dvc/tmp/exps/<name>; their runs belong into
    the store of the repository, not into a folder that is deleted afterwards.
    """
    for folder in root.parents:
        if folder.name == "exps" and folder.parent.name == "tmp":
            dvc_dir = folder.parent.parent
            if dvc_dir.name == ".dvc":
                return dvc_dir.parent
    return root
