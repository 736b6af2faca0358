"""DVC in a folder that is no git repository: an unpacked archive."""

import sys
from pathlib import Path


def prepare_dvc(root: Path) -> None:
    """Without git (an unpacked archive) DVC must be told so; this writes it to .dvc/config.local.

    The lineage then records that the code version is unknown.
    """
    local_config = root / ".dvc" / "config.local"
    if (root / ".git").exists() or local_config.exists():
        return
    sys.stderr.write("vivero: no git repository here; the lineage will not know the code version\n")
    local_config.parent.mkdir(exist_ok=True)
    local_config.write_text("[core]\n    no_scm = true\n", encoding="utf-8")
