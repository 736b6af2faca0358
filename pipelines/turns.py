"""Taking turns: of all runs on all machines, one at a time, by a lease that Prefect's server keeps.

A run that is killed in its turn gives it back when the lease ends, without anybody's help. A
temporary server, which a run without PREFECT_API_URL starts, forgets leases when it ends, but not
the slots that they took: there a locked file is the turn, and the kernel gives it back at once.
"""

import contextlib
import logging
from collections.abc import Iterator

import httpx
from filelock import FileLock
from prefect import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import get_current_settings
from tenacity import before_sleep_log, retry, retry_if_exception, stop_after_delay, wait_fixed

from vivero.config.paths import project_dir, work_dir

LEASE_S = 60.0  # renewed while the run lives; Prefect's least
SERVER_PATIENCE_S = 600.0

log = logging.getLogger(__name__)
AWAY = (httpx.HTTPError, ConcurrencySlotAcquisitionError, ObjectAlreadyExists)
REFUSED_KEY = (401, 403, 407)  # asking again does not help


def _is_away(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in REFUSED_KEY:
        return False
    return isinstance(error, AWAY)


while_server_is_away = retry(
    retry=retry_if_exception(_is_away),
    stop=stop_after_delay(SERVER_PATIENCE_S),
    wait=wait_fixed(5),
    before_sleep=before_sleep_log(log, logging.WARNING),
    reraise=True,
)


def is_server_lasting() -> bool:
    """Whether the server outlives the run, and so can keep its leases."""
    return get_current_settings().api.url is not None


@contextlib.contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Wait for our turn, and have it until the end of the block."""
    if is_server_lasting():
        _ensure_limit(name)
        with _slot(name):
            yield
    else:
        folder = work_dir(project_dir())
        folder.mkdir(exist_ok=True)
        with FileLock(folder / f"{name}.lock"):
            yield


@contextlib.contextmanager
def slot_where_there_is_one(name: str) -> Iterator[None]:
    """Wait for a slot of a limit that the server's keepers made; without one, go on at once."""
    if is_server_lasting() and _has_limit(name):
        with _slot(name):
            yield
    else:
        yield


@contextlib.contextmanager
def _slot(name: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        _enter(stack, name)
        yield


@while_server_is_away
def _enter(stack: contextlib.ExitStack, name: str) -> None:
    """Take a slot whose lease is renewed; a server that is away for a while ends no run."""
    lease = concurrency(
        name, occupy=1, lease_duration=LEASE_S, strict=True, raise_on_lease_renewal_failure=False
    )
    stack.enter_context(lease)


@while_server_is_away
def _has_limit(name: str) -> bool:
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            return False
    return True


@while_server_is_away
def _ensure_limit(name: str) -> None:
    """Have the server know the limit; two that make it at once both find it."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, limit=1)
