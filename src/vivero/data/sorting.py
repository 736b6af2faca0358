"""Sorts inspected images into good ones and quarantine, by the data contract. Pure."""

from dataclasses import dataclass

from vivero.config.schema import ValidateDataConfig
from vivero.data.duplicates import DuplicateGroup, duplicate_groups, refused_copies
from vivero.data.manifest import Inspection, ManifestRow
from vivero.data.quarantine import QuarantineRow, worst_rows


@dataclass(frozen=True)
class SortedData:
    """Rows that may be trained on, rows that may not, and the duplicates among them.

    refused is ordered by split and key; good keeps the order of the shards.
    """

    good: list[ManifestRow]
    refused: list[QuarantineRow]
    duplicates: list[DuplicateGroup]

    @property
    def num_rows(self) -> int:
        """Rows of the data set."""
        return len(self.good) + len(self.refused)

    @property
    def quarantined_share(self) -> float:
        """Share of the rows that are kept out; 0 for no rows."""
        return len(self.refused) / self.num_rows if self.num_rows else 0.0


def sort_rows(inspection: Inspection, config: ValidateDataConfig) -> SortedData:
    """Apply the rules for single images, then remove exact duplicates among what is left."""
    refused = list(inspection.refused)
    fitting = []
    for row in inspection.images:
        flaw = _flaw(row, config)
        if flaw:
            refused.append(flaw)
        else:
            fitting.append(row)
    groups = duplicate_groups(fitting)
    copies = {id(copy) for group in groups for copy in group.copies}
    refused += [row for group in groups for row in refused_copies(group)]
    good = [row for row in fitting if id(row) not in copies]
    return SortedData(good, sorted(refused, key=_place), groups)


def _place(row: QuarantineRow) -> tuple[str, str, str]:
    return (row.split or "", row.key or "", row.reason)


def _flaw(row: ManifestRow, config: ValidateDataConfig) -> QuarantineRow | None:
    """Why a decoded image is kept out, or None."""
    facts = row.facts
    size = f"{facts.width_px} x {facts.height_px} pixels"
    if not row.key:
        return row.refused("no_key", "the row has no key, so nothing could be traced back to it")
    if min(facts.width_px, facts.height_px) < config.min_side_px:
        return row.refused("too_small", f"{size}; min_side_px is {config.min_side_px}")
    if max(facts.width_px, facts.height_px) > config.max_side_px:
        return row.refused("too_large", f"{size}; max_side_px is {config.max_side_px}")
    if facts.std <= config.blank_max_std:
        return row.refused(
            "blank", f"its pixels vary by {facts.std:g}; blank_max_std is {config.blank_max_std:g}"
        )
    return None


def too_many_refused(data: SortedData, max_share: float) -> str | None:
    """What to tell a person when more than max_share of the rows are kept out, or None."""
    if data.quarantined_share <= max_share:
        return None
    worst = worst_rows(data.refused)
    lines = [f"  {row.path!r} ({row.split}): {row.reason}: {row.detail}" for row in worst]
    return (
        f"{len(data.refused)} of {data.num_rows} images ({data.quarantined_share:.2%}) are not fit "
        f"for training; validate_data.max_quarantined_share allows {max_share:.2%}. The worst "
        f"{len(worst)}:\n" + "\n".join(lines)
    )
