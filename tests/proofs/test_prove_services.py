"""The proof on real services, whole: as long as `make prove-services` takes."""

from pathlib import Path

import pytest
from rich.console import Console

from infra.services import postgres
from infra.services.settings import SERVICES
from tests.proofs.prove_services import prove


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.skipif(
    postgres.bin_dir() is None, reason="no PostgreSQL (Debian: apt-get install postgresql)"
)
def test_runs_reach_a_version_on_real_services_whatever_is_killed(tmp_path: Path):
    for folder in (tmp_path, *tmp_path.parents[:2]):  # pytest's are closed for user postgres
        folder.chmod(0o711)
    said = prove(tmp_path / "proof", list(SERVICES), Console())
    assert said.startswith("PROVED")
    assert f"{', '.join(SERVICES)} killed" in said
