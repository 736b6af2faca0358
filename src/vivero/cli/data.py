"""`vivero data`: bring images in, check them against their pointer, look at them."""

import contextlib
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vivero.cli.dvc_setup import prepare_dvc
from vivero.cli.targets import replaceable_folder, writable_file
from vivero.config.paths import data_dir, project_dir, root_or_none, work_dir
from vivero.errors import DataError

if TYPE_CHECKING:
    from vivero.data.imagefolder import ImportChoice

app = typer.Typer(
    help="Bring images in, check them, look at them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
log = logging.getLogger(__name__)
NUM_EXAMPLES = 3


class LayoutChoice(StrEnum):
    """The values of --layout."""

    splits = "splits"
    classes = "classes"
    flat = "flat"


@app.command()
def fetch(
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is in data/ now.")
    ] = False,
) -> None:
    """Bring the data set of this repository into data/ and compare it with data.dvc.

    From DVC's cache or remote; Fashion-MNIST (70,000 images) also from its Debian package or from
    its authors.

    Example: vivero data fetch
    """
    root = project_dir()
    if not overwrite and _has_shards(data_dir(root)):
        _verify(root)
        typer.echo("data/ is there and as data.dvc says")
        return
    seconds = _bring_in(root, overwrite)
    typer.echo(f"data/ is there ({seconds:.0f} s)")


@app.command(name="import")
def import_images(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder, or s3://bucket/prefix.")
    ],
    out: Annotated[
        Path, typer.Option("--out", callback=replaceable_folder, help="Where the shards go.")
    ] = Path("data"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there now.")
    ] = False,
    append: Annotated[
        bool, typer.Option("--append", help="Keep what is there now, and add what is new.")
    ] = False,
    with_generated: Annotated[
        bool,
        typer.Option("--with-generated", help="Import images that Vivero generated too."),
    ] = False,
    layout: Annotated[
        LayoutChoice | None,
        typer.Option(
            "--layout", help="What the folders are, where that is not clear: splits, classes, flat."
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            "--ignore",
            metavar="PATTERN",
            help="Leave out files and folders with such a name or path. Can be repeated.",
        ),
    ] = None,
) -> None:
    """Turn a folder of images into shards: class folders, or metadata.csv, .tsv, .jsonl, .parquet.

    Folders train, validation and test are splits. Where folders can mean several things, the
    import stops and asks for --layout or --ignore. Every file ends as a row of a shard or as a row
    of quarantine.parquet with its reason. Images that Vivero generated are refused, by their own
    record or by their pixels, unless you pass --with-generated. With --append, images that are
    there already are dropped, and without a new one nothing changes.

    Example: vivero data import PHOTOS --out data --overwrite
    """
    if append and overwrite:
        raise DataError("--append keeps what --overwrite replaces; ask for one of them")
    from vivero.data.imagefolder import ImportChoice, import_folder
    from vivero.data.made_images import MadeImages

    choice = ImportChoice(None if layout is None else layout.value, tuple(ignore or ()))
    root = root_or_none()
    if root is not None and not with_generated:
        from vivero.registry.image_runs import fetch_from_others

        fetch_from_others(root)
    with _folder_of(source) as folder, _named_target(out):
        if append:
            _append(folder, out, with_generated, choice)
        else:
            made = None if with_generated else MadeImages(root or out.parent)
            choice = replace(choice, made=made)
            report = import_folder(folder, out, overwrite=overwrite, choice=choice)
            typer.echo(report.text())


def _append(folder: Path, out: Path, with_generated: bool, choice: "ImportChoice") -> None:
    from vivero.data.appending import ALL_REFUSED_EXIT_CODE, append_folder, read_left_out
    from vivero.data.quarantine import worst_rows

    report = append_folder(folder, out, with_generated, choice=choice, root=root_or_none())
    typer.echo(report.text())
    if report.is_all_refused:
        rows = worst_rows(read_left_out(out), NUM_EXAMPLES)
        examples = "".join(f"\n  {row.path!r}: {row.reason}: {row.detail}" for row in rows)
        typer.echo(f"vivero: every image of {folder} was refused. For example:{examples}", err=True)
        raise typer.Exit(ALL_REFUSED_EXIT_CODE)


@contextlib.contextmanager
def _named_target(out: Path) -> Iterator[None]:
    """Turn what the system says of a target that cannot be written into one clear line."""
    try:
        yield
    except OSError as error:
        path = "" if error.filename is None else f" ({error.filename})"
        raise DataError(
            f"cannot write the data set to {out}: {error.strerror or error}{path}. Name a folder "
            f"that you may write to with --out"
        ) from error


@contextlib.contextmanager
def _folder_of(source: str) -> Iterator[Path]:
    """The folder that a source is, or into which it is brought for a while."""
    if "://" not in source:
        yield Path(source)
        return
    from vivero.data.appending import bring_here
    from vivero.data.incoming import open_source

    opened = open_source(source, Path.cwd())
    with tempfile.TemporaryDirectory(prefix="vivero-import-") as name:
        own_name = source.rstrip("/").rpartition("/")[2]  # which may be that of a class
        folder = Path(name) / (own_name if own_name.strip(".") else "images")
        folder.mkdir()
        bring_here(opened, source.partition("://")[2], folder)
        yield folder


@app.command()
def verify() -> None:
    """Compare every byte of data/ with data.dvc.

    Example: vivero data verify
    """
    _verify(project_dir())
    typer.echo("data/ is as data.dvc says")


@app.command()
def show(
    folder: Annotated[Path | None, typer.Argument(metavar="[DATA_DIR]")] = None,
    grid: Annotated[
        Path | None,
        typer.Option(callback=writable_file, help="Write a contact sheet to this PNG file."),
    ] = None,
) -> None:
    """Say what a data folder holds: splits, classes, sizes.

    Example: vivero data show data --grid contact-sheet.png
    """
    from vivero.data.description import describe_data, write_contact_sheet

    target = folder or data_dir(project_dir())
    typer.echo(describe_data(target).text())
    if grid is not None:
        write_contact_sheet(target, grid)
        typer.echo(f"contact sheet: {grid}")


def ensure_data(root: Path) -> float:
    """Bring data/ in where it is missing; returns the seconds that it took."""
    if _has_shards(data_dir(root)):
        return 0.0
    return _bring_in(root, overwrite=False)


def _has_shards(folder: Path) -> bool:
    return any(folder.glob("train-*.parquet"))  # quarantine.parquet alone is no data


def _bring_in(root: Path, overwrite: bool) -> float:
    started_at = time.monotonic()
    prepare_dvc(root)
    if not _restored_by_dvc(root):
        _build_fashion_mnist(root, overwrite)
        added = _dvc(root, "add", "--quiet", "data")  # so that `dvc checkout` finds it
        if added.returncode:
            raise DataError(f"data/ is there, but DVC could not take it in: {added.stderr.strip()}")
    return time.monotonic() - started_at


def _restored_by_dvc(root: Path) -> bool:
    """Whether DVC's cache, or else its remote, had what data.dvc names."""
    if not (root / "data.dvc").exists():
        return False
    tries: list[tuple[str, ...]] = [("checkout", "--quiet", "--force", "data.dvc")]
    if _dvc(root, "remote", "list").stdout.strip():
        log.info("data: asking the DVC remote")
        tries.append(("pull", "--quiet", "data.dvc"))
    return any(
        _dvc(root, *command).returncode == 0 and _has_shards(data_dir(root)) for command in tries
    )


def _dvc(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(
        command, cwd=root, capture_output=True, text=True, errors="replace", check=False
    )


def _build_fashion_mnist(root: Path, overwrite: bool) -> None:
    """Build the shards beside data/, and move them in only if they are what data.dvc names."""
    from vivero.data.fashion_mnist import fetch_fashion_mnist
    from vivero.integrity.data_folder import verify_data

    part_dir = work_dir(root) / "fetched"
    fetch_fashion_mnist(part_dir, work_dir(root), overwrite=True)
    try:
        if (root / "data.dvc").exists():
            verify_data(part_dir, root / "data.dvc")
    except DataError as error:
        shutil.rmtree(part_dir)
        raise DataError(
            f"Fashion-MNIST is not the data that data.dvc names, which neither DVC's cache nor a "
            f"remote has; data/ was left as it is. Add the remote that holds it "
            f"(`dvc remote add -d`), or import your images again (`vivero data import`). "
            f"Found: {error}"
        ) from error
    if overwrite:
        shutil.rmtree(data_dir(root), ignore_errors=True)
    part_dir.rename(data_dir(root))


def _verify(root: Path) -> None:
    from vivero.integrity.data_folder import verify_data

    pointer_path = root / "data.dvc"
    if not pointer_path.exists():
        raise DataError("there is no data.dvc to compare with; run `dvc add data` to make it")
    verify_data(data_dir(root), pointer_path)
