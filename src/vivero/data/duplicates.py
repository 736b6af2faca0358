"""Exact duplicates by the hash of their pixels, within a split and across splits. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from vivero.data.manifest import ManifestRow
from vivero.data.quarantine import QuarantineRow
from vivero.data.shards import Split

# Of equal images in several splits the one that judges the model stays: a test image that was
# trained on would make every figure look better than it is.
PRECEDENCE: dict[Split, int] = {"test": 0, "validation": 1, "train": 2}


@dataclass(frozen=True)
class DuplicateGroup:
    """Images with equal pixels: the one that stays, and its copies."""

    kept: ManifestRow
    copies: list[ManifestRow]

    @property
    def labels_differ(self) -> bool:
        """Whether the same pixels carry unlike labels."""
        return len({row.label for row in (self.kept, *self.copies)}) > 1


def duplicate_groups(rows: Sequence[ManifestRow]) -> list[DuplicateGroup]:
    """Groups of equal images, ordered by the key that stays: test first, then the lowest key."""
    by_pixels: dict[str, list[ManifestRow]] = {}
    for row in rows:
        by_pixels.setdefault(row.facts.pixel_sha256, []).append(row)
    groups = []
    for equal in by_pixels.values():
        if len(equal) > 1:
            kept, *copies = sorted(equal, key=lambda row: (PRECEDENCE[row.split], row.key))
            groups.append(DuplicateGroup(kept, copies))
    return sorted(groups, key=lambda group: (group.kept.split, group.kept.key))


def refused_copies(group: DuplicateGroup) -> list[QuarantineRow]:
    """The copies of a group as rows of the quarantine; those across splits are leakage."""
    rows = []
    for copy in group.copies:
        is_leak = copy.split != group.kept.split
        reason = f"duplicate_of_{group.kept.split}" if is_leak else "duplicate"
        detail = f"same pixels as {group.kept.key} of {group.kept.split}"
        if copy.label != group.kept.label:
            detail += f", which has label {group.kept.label} instead of {copy.label}"
        rows.append(copy.refused(reason, detail))
    return rows
