"""300 faults of an S3 server or its network: nothing half written is seen, nothing is read wrong.

`python -m tests.proofs.prove_s3_faults`; FAULTS says how many. A proxy strikes requests of
`dvc push`, `dvc pull` and `vivero verify --remote`. Each either gets through by trying again, or
fails and says so; the same command without the fault succeeds. A fault that did not fire is an
error of this proof.
"""

import hashlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from rich.console import Console
from rich.table import Table

from tests.proofs import s3_server
from tests.proofs.fault_proxy import FAULTS, FaultProxy, Plan, fault_proxy
from tests.proofs.stored_objects import REMOTE_FOLDER
from tests.proofs.tiny_pipeline import dvc
from vivero.integrity.hashing import md5_of_path
from vivero.storage.examination import examine
from vivero.storage.stores import open_stores

NUM_FILES, MAX_FILE_BYTES = 8, 300_000
TIMES = (1, 1, 2, 12, 12)  # requests struck in a row; the last are beyond all retries
COMMANDS = ("push", "pull", "verify")


@dataclass(frozen=True)
class Outcome:
    """What came of a command that met a fault.

    Attributes:
        command: Which.
        fault: Which.
        num_fired: Requests that were struck.
        is_done: Whether it ended well by itself.
        num_half_written: Objects in the server or the cache whose bytes are not as their names say.
        num_wrong_reads: Files that were brought back with other bytes, or objects called damaged.
        is_done_next: Whether the same command ends well without the fault.
    """

    command: str
    fault: str
    num_fired: int
    is_done: bool
    num_half_written: int
    num_wrong_reads: int
    is_done_next: bool

    @property
    def is_good(self) -> bool:
        """Whether all is as it must be."""
        is_clean = self.num_half_written == self.num_wrong_reads == 0
        return is_clean and self.is_done_next and self.num_fired > 0


@dataclass
class Ground:
    """A repository of DVC whose remote is the proxy, and a client that goes past the proxy."""

    root: Path
    proxy: FaultProxy
    client: Any
    rng: random.Random

    def __post_init__(self) -> None:
        folder = self.root / "images"
        folder.mkdir(parents=True)
        for number in range(NUM_FILES):
            num_bytes = self.rng.randrange(1, MAX_FILE_BYTES)
            (folder / f"{number}.bin").write_bytes(self.rng.randbytes(num_bytes))
        (self.root / "params.yaml").write_text("{}\n")
        dvc(self.root, "init", "--no-scm", "--quiet")
        for name, value in {
            "core.site_cache_dir": str(self.root / ".dvc/site"),
            "remote.s3.url": f"s3://{s3_server.BUCKET}/{REMOTE_FOLDER}",
            "remote.s3.endpointurl": f"http://127.0.0.1:{self.proxy.port}",
            "remote.s3.verify": "true",
            "core.remote": "s3",
        }.items():
            dvc(self.root, "config", name, value)
        dvc(self.root, "add", "--quiet", "images")
        self.truth = md5_of_path(folder)
        self.push()
        self.oids = sorted(self.in_server())

    def push(self) -> None:
        with Repo(str(self.root)) as repo:
            repo.push()

    def pull(self) -> None:
        with Repo(str(self.root)) as repo:
            repo.pull(force=True)

    def verify(self) -> None:
        """As `vivero verify --remote` reads a remote; counts what it calls damaged."""
        self.num_called_damaged = 0
        with open_stores(self.root, with_remote=True) as (_, remote):
            oids = remote.objects()
            if len(oids) < len(self.oids):
                raise AssertionError("a list of objects came back too short")
            for seen in examine(remote, oids):
                self.num_called_damaged += seen.problem is not None

    def in_server(self) -> dict[str, bytes]:
        """All objects that the server shows, past the proxy."""
        prefix = f"{REMOTE_FOLDER}/files/md5/"
        listed = self.client.list_objects_v2(Bucket=s3_server.BUCKET, Prefix=prefix)
        keys = [entry["Key"] for entry in listed.get("Contents", [])]
        return {
            key.removeprefix(prefix).replace("/", ""): self.client.get_object(
                Bucket=s3_server.BUCKET, Key=key
            )["Body"].read()
            for key in keys
        }

    def in_cache(self) -> dict[str, bytes]:
        """All objects of the local cache; what begins with a dot or is no hash is none."""
        paths = (self.root / ".dvc/cache/files/md5").glob("??/*")
        contents = {path.parent.name + path.name: path.read_bytes() for path in paths}
        return {name: content for name, content in contents.items() if name in self.oids}

    def prepare(self, command: str) -> None:
        """Leave the command something to do."""
        shutil.rmtree(self.root / ".dvc/site", ignore_errors=True)
        if command == "push":
            for oid in [*self.rng.sample(self.oids, 4), *self.lists()]:
                key = f"{REMOTE_FOLDER}/files/md5/{oid[:2]}/{oid[2:]}"
                self.client.delete_object(Bucket=s3_server.BUCKET, Key=key)
        if command == "pull":
            shutil.rmtree(self.root / ".dvc/cache", ignore_errors=True)
            shutil.rmtree(self.root / "images", ignore_errors=True)

    def lists(self) -> list[str]:
        return [oid for oid in self.oids if oid.endswith(".dir")]

    def meet(self, command: str, fault: str) -> Outcome:
        """Run a command while requests of it are struck, and then once more without."""
        self.prepare(command)
        run: Callable[[], None] = getattr(self, command)
        self.num_called_damaged = 0
        methods = frozenset({"PUT"} if command == "push" else {"GET"})
        plan = Plan(fault, methods, self.rng.randrange(3), self.rng.choice(TIMES))
        self.proxy.plan = plan
        is_done = ends_well(run)
        self.proxy.plan = None
        num_wrong = self.num_called_damaged + self.wrong_files(is_done and command == "pull")
        half = sum(
            hashlib.md5(content, usedforsecurity=False).hexdigest() != oid.removesuffix(".dir")
            for store in (self.in_server(), self.in_cache())
            for oid, content in store.items()
        )
        is_done_next = ends_well(run) and sorted(self.in_server()) == self.oids
        num_wrong += self.wrong_files(must_be_whole=True)
        return Outcome(command, fault, plan.num_fired, is_done, half, num_wrong, is_done_next)

    def wrong_files(self, must_be_whole: bool) -> int:
        """Whether the workspace shows other bytes than it should; missing files where allowed."""
        folder = self.root / "images"
        if must_be_whole:
            return int(md5_of_path(folder) != self.truth)
        known = set(self.oids)
        return sum(md5_of_path(path) not in known for path in folder.glob("*.bin"))


def ends_well(run: Callable[[], None]) -> bool:
    """Whether a command succeeds; that it fails is no fault of its own, as long as it says so."""
    try:
        run()
    except AssertionError:
        raise
    except Exception:  # noqa: BLE001  # of DVC, botocore, aiohttp and ours
        return False
    return True


def outcomes(ground: Ground, num_faults: int) -> Iterator[Outcome]:
    """Meet each fault with each command, in turn, until so many requests were struck."""
    num_fired = number = 0
    while num_fired < num_faults:
        command = COMMANDS[number % len(COMMANDS)]
        outcome = ground.meet(command, FAULTS[number // len(COMMANDS) % len(FAULTS)])
        assert outcome.num_fired, f"the fault {outcome.fault} of {command} did not fire"
        num_fired, number = num_fired + outcome.num_fired, number + 1
        yield outcome


def of_all(done: list[Outcome], name: str) -> int:
    return sum(getattr(one, name) for one in done)


def table_of(done: list[Outcome]) -> Table:
    columns = ("command", "fault", "met", "requests struck", "got through", "failed cleanly")
    table = Table(*columns, "half written", "wrong reads", "next one well")
    for pair in dict.fromkeys((one.command, one.fault) for one in done):
        own = [one for one in done if (one.command, one.fault) == pair]
        count = Counter(one.is_done for one in own)
        half, wrong = of_all(own, "num_half_written"), of_all(own, "num_wrong_reads")
        well, struck = of_all(own, "is_done_next"), of_all(own, "num_fired")
        counts = (len(own), struck, count[True], count[False], half, wrong, well)
        table.add_row(*pair, *map(str, counts))
    return table


def prove(folder: Path, num_faults: int, console: Console) -> bool:
    """Meet num_faults and say what came of it; True when all is as it must be."""
    os.environ.update(s3_server.CREDENTIALS, AWS_MAX_ATTEMPTS="3")  # tries less long than usual
    began_at = time.monotonic()
    with s3_server.s3_server(folder / "s3") as port, fault_proxy(port) as proxy:
        client = s3_server.s3_client(port)
        ground = Ground(folder / "repository", proxy, client, random.Random(num_faults))
        done = []
        for outcome in outcomes(ground, num_faults):
            done.append(outcome)
            if not outcome.is_good:
                console.print(f"WRONG: {outcome}")
            elif len(done) % 20 == 0:
                console.print(f"{sum(one.num_fired for one in done):>4} of {num_faults}")
    console.print(table_of(done))
    num_fired = of_all(done, "num_fired")
    half, wrong = of_all(done, "num_half_written"), of_all(done, "num_wrong_reads")
    console.print(
        f"{num_fired} faults in {len(done)} commands: {half} objects half written, {wrong} wrong "
        f"reads ({time.monotonic() - began_at:.0f} s)"
    )
    return num_fired >= num_faults and all(one.is_good for one in done)


def main() -> None:
    num_faults = int(os.environ.get("FAULTS", "300"))
    with tempfile.TemporaryDirectory(prefix="vivero-s3-faults-") as folder:
        is_proven = prove(Path(folder), num_faults, Console(width=110, highlight=False))
    sys.exit(0 if is_proven else 1)


if __name__ == "__main__":
    main()
