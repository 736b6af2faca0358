"""The proof on real services, whole: as long as `make prove-services` takes."""

import pytest
from rich.console import Console

from infra.services import postgres
from infra.services.settings import SERVICES
from tests.proofs.prove_services import prove
from tests.services import open_folder


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.skipif(
    postgres.bin_dir() is None, reason="no PostgreSQL (Debian: apt-get install postgresql)"
)
def test_runs_reach_a_version_on_real_services_whatever_is_killed():
    with open_folder() as folder:
        said = prove(folder / "proof", list(SERVICES), Console())
    assert said.startswith("PROVED")
    assert f"{', '.join(SERVICES)} killed" in said
