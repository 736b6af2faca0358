"""Finished cells of a comparison of samplers, kept on disk so that no minute is spent twice.

A cell is NAME.safetensors (its images, uint8) and NAME.json (its figures). Each file is verified by
its hash when it is read; a cell that is damaged or was made with other settings is computed again.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vivero.errors import DataError
from vivero.evaluation.intervals import Estimate
from vivero.evaluation.sampler_comparison import Cell, CellFigures
from vivero.evaluation.sampler_runs import Converged
from vivero.files import sha256_of_json
from vivero.integrity.caches import load_tensors, read_record, save_tensors, write_record

CONVERGED_NAME, IMAGES = "converged", "images"
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
        name, key = found.cell.name, self._key(found.cell.name, found.n)
        if images is not None:
            self._keep_images(name, key, torch.from_numpy(images))
        record = {"settings": self.settings, "figures": figures_row(found)}
        write_record(self._path(name, ".json"), key, record)

    def figures(self, cell: Cell, n: int) -> CellFigures | None:
        """The figures of a cell that was finished on n images; None when there is none."""
        key = self._key(cell.name, n)
        kept = read_record(self._path(cell.name, ".json"), key)
        if kept is None:
            return None
        try:
            row = kept["figures"]
            found = CellFigures(
                cell=cell,
                n=n,
                frechet=None if row["frechet"] is None else Estimate(**row["frechet"]),
                **{name: row[name] for name in PLAIN},
            )
        except (KeyError, TypeError):  # of another version of vivero
            return None
        has_images = self._images(cell.name, key) is not None
        return found if found.error is not None or has_images else None

    def images(self, cell: Cell, n: int) -> np.ndarray:
        """The n images of a finished cell that did not diverge, uint8, (N, C, H, W).

        Raises:
            DataError: When they were damaged since `figures` found them.
        """
        images = self._images(cell.name, self._key(cell.name, n))
        if images is None:
            raise DataError(
                f"the images of {cell.name} in {self.folder} are damaged; run the same command "
                f"again to compute them again"
            )
        return images.numpy()

    def keep_converged(self, solution: Converged) -> None:
        """Write the solution of the flow."""
        key = self._key(CONVERGED_NAME, len(solution.images))
        self._keep_images(CONVERGED_NAME, key, solution.images)
        record = {"settings": self.settings, "uncertainty": solution.uncertainty}
        write_record(self._path(CONVERGED_NAME, ".json"), key, record)

    def converged(self, n: int) -> Converged | None:
        """The solution of the flow for n images; None when it is not there."""
        key = self._key(CONVERGED_NAME, n)
        kept = read_record(self._path(CONVERGED_NAME, ".json"), key)
        images = None if kept is None else self._images(CONVERGED_NAME, key)
        return None if kept is None or images is None else Converged(images, kept["uncertainty"])

    def _keep_images(self, name: str, key: str, images: torch.Tensor) -> None:
        save_tensors(self._path(name, ".safetensors"), key, {IMAGES: images})

    def _images(self, name: str, key: str) -> torch.Tensor | None:
        tensors = load_tensors(self._path(name, ".safetensors"), key)
        return None if tensors is None else tensors[IMAGES]

    def _key(self, name: str, n: int) -> str:
        """Hash of all that decides the figures of a cell of n images."""
        return sha256_of_json({**self.settings, "cell": name, "n": n})

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
