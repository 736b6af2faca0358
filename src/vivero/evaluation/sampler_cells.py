"""Finished cells of a comparison of samplers, kept on disk so that no minute is spent twice.

A cell is NAME.npy (its images, uint8) and NAME.json (its figures, and the settings they hold for);
the JSON comes last, so that where it stands the cell is whole.
"""

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vivero.evaluation.intervals import Estimate
from vivero.evaluation.sampler_comparison import Cell, CellFigures
from vivero.evaluation.sampler_runs import Converged
from vivero.files import read_json, write_json, write_whole

CONVERGED_NAME = "converged"
PLAIN = ("evaluations", "ms_per_image", "equivalent_evaluations", "divergence", "error")


@dataclass(frozen=True)
class CellStore:
    """A folder of finished cells.

    Args:
        folder: Where they lie.
        settings: All that decides a cell's figures besides sampler, steps and n, as JSON values;
            a cell made with others counts as not there.
    """

    folder: Path
    settings: dict[str, Any]

    def keep(self, found: CellFigures, images: np.ndarray | None) -> None:
        """Write a cell; images, uint8, (N, C, H, W), are None when it diverged."""
        if images is not None:
            _write_array(self._path(found.cell.name, ".npy"), images)
        write_json(
            self._path(found.cell.name, ".json"),
            {"settings": self._settings(found.n), "figures": figures_row(found)},
        )

    def figures(self, cell: Cell, n: int) -> CellFigures | None:
        """The figures of a cell that was finished on n images; None when there is none."""
        kept = self._kept(cell.name, n)
        try:
            row = kept["figures"]
            found = CellFigures(
                cell=cell,
                n=n,
                frechet=None if row["frechet"] is None else Estimate(**row["frechet"]),
                **{name: row[name] for name in PLAIN},
            )
        except (KeyError, TypeError):  # not there, or of another version of vivero
            return None
        has_images = self._path(cell.name, ".npy").is_file()
        return found if found.error is not None or has_images else None

    def images(self, cell: Cell) -> np.ndarray:
        """The images of a finished cell that did not diverge, uint8, (N, C, H, W)."""
        images: np.ndarray = np.load(self._path(cell.name, ".npy"), allow_pickle=False)
        return images

    def keep_converged(self, solution: Converged) -> None:
        """Write the solution of the flow."""
        _write_array(self._path(CONVERGED_NAME, ".npy"), solution.images.numpy())
        write_json(
            self._path(CONVERGED_NAME, ".json"),
            {
                "settings": self._settings(len(solution.images)),
                "uncertainty": solution.uncertainty,
            },
        )

    def converged(self, n: int) -> Converged | None:
        """The solution of the flow for n images; None when it is not there."""
        try:
            uncertainty = float(self._kept(CONVERGED_NAME, n)["uncertainty"])
            images = np.load(self._path(CONVERGED_NAME, ".npy"), allow_pickle=False)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Converged(torch.from_numpy(images), uncertainty)

    def _kept(self, name: str, n: int) -> dict[str, Any]:
        """What a JSON file holds; nothing when it is missing, damaged or of other settings."""
        try:
            kept = dict(read_json(self._path(name, ".json")))
        except (OSError, ValueError, TypeError):
            return {}
        return kept if kept.get("settings") == self._settings(n) else {}

    def _settings(self, n: int) -> dict[str, Any]:
        return {**self.settings, "n": n}

    def _path(self, name: str, suffix: str) -> Path:
        return self.folder / f"{name}{suffix}"


def figures_row(found: CellFigures) -> dict[str, Any]:
    """The figures of a cell as JSON values."""
    return {
        "name": found.cell.name,
        "sampler": found.cell.sampler,
        "num_steps": found.cell.num_steps,
        "n": found.n,
        "frechet": None if found.frechet is None else asdict(found.frechet),
        **{name: getattr(found, name) for name in PLAIN},
    }


def _write_array(path: Path, values: np.ndarray) -> None:
    buffer = io.BytesIO()  # numpy's own writing to a file hides that the disk is full
    np.save(buffer, values, allow_pickle=False)
    with write_whole(path) as part_path:
        part_path.write_bytes(buffer.getvalue())
