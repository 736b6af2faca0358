"""A file that is not what it was when it was made, and what a person is told about it."""

from collections.abc import Sequence
from dataclasses import dataclass

from vivero.errors import IntegrityError
from vivero.integrity.hashing import FileHash

MAX_NAMED = 10
MISSING = "nothing"


@dataclass(frozen=True)
class Damage:
    """One file or folder that is not as it should be.

    Attributes:
        path: Relative to the top of the repository.
        expected: What it should be, in words; says where that is written.
        found: What it is.
    """

    path: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, found {self.found}"


def in_words(hashed: FileHash) -> str:
    """A hash as it is told to a person."""
    return f"sha256 {hashed.sha256} ({hashed.num_bytes:,} bytes)"


def integrity_error(damages: Sequence[Damage]) -> IntegrityError:
    """What stops a stage: every damaged file, and what to do."""
    lines = [f"  {damage}" for damage in damages[:MAX_NAMED]]
    if len(damages) > MAX_NAMED:
        lines.append(f"  and {len(damages) - MAX_NAMED} more (`vivero verify` names all)")
    said = "\n".join(lines)
    return IntegrityError(
        f"{len(damages)} of the files to be read are not what was made; nothing was started:\n"
        f"{said}\n"
        f"What to do: `vivero verify --mend` moves what is damaged here and in DVC's cache to "
        f"work/quarantine/; then `dvc pull --force` brings good copies from the remote, or "
        f"`dvc checkout --force` from the cache where that is whole, or `vivero run` makes them "
        f"again. If you changed a file of data/ on purpose, bring it in with `vivero data import`; "
        f"if you ran a stage without DVC, `dvc commit STAGE` makes what it left the truth"
    )
