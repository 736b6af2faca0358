"""Strike 200 objects, in S3 and in the local cache: all are seen before the stage begins.

`python -m tests.proofs.prove_integrity`; OBJECTS says how many. The workspace is a small clone of
this repository whose data and prepared images DVC itself has made. What a stage would read of a bad
object is brought back as a run does it (`dvc checkout`, `dvc pull`), then the stage is entered.
"""

import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.end_to_end.conftest import Clone, draw_images, make_clone
from tests.proofs import s3_server
from tests.proofs.stored_objects import (
    DVC_SAW,
    ENTRY_SAW,
    VERIFY_SAW,
    Trial,
    cache_path,
    forget,
    replace_read_only,
    seen_by,
    struck,
    struck_cache,
    struck_remote,
    targets_of,
    ways_of,
)

READERS = {
    "data": "validate_data",
    "artifacts/validate_data/manifest.parquet": "prepare_data",
    "artifacts/validate_data/manifest.json": "prepare_data",
    "artifacts/prepare_data/images": "train",
    "artifacts/prepare_data/manifest.json": "train",
}
CACHE, REMOTE, STRICT = "local cache", "S3", "S3, verify = true"
NUM_OF_DVC_ALONE = 20
NUM_OF_WHOLE_COMMANDS = 5


def build(folder: Path, port: int) -> Clone:
    """A small clone whose images are prepared, and pushed to the server."""
    draw_images(folder / "pictures")
    clone = make_clone(folder / "clone", folder / "pictures")
    clone.run("dvc", "config", "--local", "core.site_cache_dir", str(clone.root / ".dvc/site"))
    clone.run("dvc", "remote", "add", "-d", "s3", f"s3://{s3_server.BUCKET}/store")
    clone.run("dvc", "remote", "modify", "s3", "endpointurl", f"http://127.0.0.1:{port}")
    clone.run("dvc", "repro", "prepare_data")
    clone.run("dvc", "push")
    return clone


def trials(clone: Clone, client: Any, num_objects: int) -> Iterator[tuple[str, Trial]]:
    """Strike one object after the other, of each place and way in turn."""
    rng, root = random.Random(num_objects), clone.root
    targets = targets_of(root, READERS)
    for number in range(num_objects):
        place = (CACHE, REMOTE, CACHE, STRICT)[number % 4]
        target = targets[number // 4 % len(targets)]
        ways = ways_of(target)
        way = ways[(number // 4 // len(targets) + number) % len(ways)]
        if place == CACHE:
            with struck_cache(root, target, way, targets, rng):
                yield place, Trial(target, way, seen_by(root, target, by_pull=False))
        else:
            set_verify(root, is_on=place == STRICT)
            with struck_remote(client, root, target, way, targets, rng):
                yield place, Trial(target, way, seen_by(root, target, by_pull=True))


def set_verify(root: Path, *, is_on: bool) -> None:
    """Whether DVC hashes what it pulls from the remote."""
    path = root / ".dvc/config"
    lines = [line for line in path.read_text().splitlines() if "verify" not in line]
    place = next(i for i, line in enumerate(lines) if line.startswith("['remote"))
    lines.insert(place + 1, f"    verify = {str(is_on).lower()}")
    path.write_text("\n".join(lines) + "\n")


def seen_by_dvc_alone(clone: Clone) -> Counter[str | None]:
    """The control: files struck in the cache, brought back, and no check of ours."""
    rng, root = random.Random(1), clone.root
    targets = [target for target in targets_of(root, READERS) if not target.oid.endswith(".dir")]
    seen: Counter[str | None] = Counter()
    for number in range(NUM_OF_DVC_ALONE):
        target = targets[number % len(targets)]
        way = rng.choice(ways_of(target))
        with struck_cache(root, target, way, targets, rng):
            seen[seen_by(root, target, by_pull=False, with_entry=False)] += 1
    return seen


def stopped_commands(clone: Clone) -> int:
    """How many of some `dvc repro train` over bad prepared images trained not a single step."""
    rng, root = random.Random(2), clone.root
    targets = [t for t in targets_of(root, READERS) if t.reader == "train"]
    files = [target for target in targets if not target.oid.endswith(".dir")]
    num_stopped = 0
    for target in files[:NUM_OF_WHOLE_COMMANDS]:
        path = cache_path(root, target.oid)
        content = path.read_bytes()
        replace_read_only(path, struck(content, "bit flip", b"", rng))
        forget(root, target.out)
        clone.run("dvc", "checkout", target.out)
        done = clone.run("dvc", "repro", "train", check=False)
        says_so = "not what was made; nothing was started" in done.stderr
        has_begun = "training starts" in done.stderr
        num_stopped += done.returncode != 0 and says_so and not has_begun
        replace_read_only(path, content)
        forget(root, target.out)
        clone.run("dvc", "checkout", target.out)
    return num_stopped


def mended(clone: Clone) -> bool:
    """`vivero verify --mend` and `dvc pull` bring a good copy back, and training goes on."""
    target = next(t for t in targets_of(clone.root, READERS) if t.out.endswith("images"))
    path = cache_path(clone.root, target.oid)
    replace_read_only(path, struck(path.read_bytes(), "bit flip", b"", random.Random(3)))
    says_damaged = clone.run("vivero", "verify", "--mend", check=False).returncode == 1
    clone.run("dvc", "pull", "--force", "prepare_data")
    return says_damaged and clone.run("vivero", "verify", "--remote").returncode == 0


def table_of(done: list[tuple[str, Trial]]) -> Table:
    """Where, in which way, how many, and who saw it."""
    table = Table("where", "way", "struck", "seen", "by the entry", "by DVC", "by verify")
    for place, way in dict.fromkeys((place, trial.way) for place, trial in done):
        seen = [trial.seen_by for where, trial in done if (where, trial.way) == (place, way)]
        by = Counter(seen)
        num_seen = sum(who is not None for who in seen)
        counts = (len(seen), num_seen, by[ENTRY_SAW], by[DVC_SAW], by[VERIFY_SAW])
        table.add_row(place, way, *map(str, counts))
    return table


def prove(folder: Path, num_objects: int, console: Console) -> bool:
    """Strike num_objects and say what came of it; True when all is as it must be."""
    os.environ.update(s3_server.CREDENTIALS)
    with s3_server.s3_server(folder / "s3") as port:
        clone = build(folder, port)
        client, began_at = s3_server.s3_client(port), time.monotonic()
        whole = [seen_by(clone.root, t, by_pull=True) for t in targets_of(clone.root, READERS)]
        assert set(whole) == {None}, "a whole object must stop nobody"
        done = []
        for place, trial in trials(clone, client, num_objects):
            done.append((place, trial))
            if trial.seen_by is None or len(done) % 20 == 0:
                said = trial.seen_by or "NOBODY"
                console.print(f"{len(done):>4} of {num_objects}  {place}, {trial.way}: {said}")
        struck_s = time.monotonic() - began_at
        console.print(table_of(done))
        alone = seen_by_dvc_alone(clone)
        num_stopped = stopped_commands(clone)
        is_mended = mended(clone)
    num_seen = sum(trial.seen_by is not None for _, trial in done)
    console.print(
        f"negative control: DVC alone saw {alone.total() - alone[None]} of {alone.total()}"
    )
    console.print(f"whole `dvc repro train` stopped: {num_stopped} of {NUM_OF_WHOLE_COMMANDS}")
    console.print(f"`vivero verify --mend`, `dvc pull`: {'mended' if is_mended else 'NOT MENDED'}")
    console.print(
        f"{len(done)} objects struck, {num_seen} seen before a bad byte was read ({struck_s:.0f} s)"
    )
    is_control = alone[None] == alone.total()
    is_all = num_seen == len(done) == num_objects and num_stopped == NUM_OF_WHOLE_COMMANDS
    return is_all and is_control and is_mended


def main() -> None:
    num_objects = int(os.environ.get("OBJECTS", "200"))
    with tempfile.TemporaryDirectory(prefix="vivero-integrity-") as folder:
        is_proven = prove(Path(folder), num_objects, Console(width=100, highlight=False))
    sys.exit(0 if is_proven else 1)


if __name__ == "__main__":
    main()
