"""Turns without a lasting server: a locked file, which the kernel opens when its holder dies."""

import os
import selectors
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TAKES_A_TURN = """
import sys
from pathlib import Path
from pipelines import turns
turns.project_dir = lambda: Path(sys.argv[1])
with turns.slot_where_there_is_one("trainer"), turns.one_at_a_time("vivero-promotion"):
    print("in", flush=True)
    sys.stdin.read()
print("out", flush=True)
"""


def take_turn(folder: Path) -> "subprocess.Popen[str]":
    env = {**os.environ, "PREFECT_HOME": str(folder / "prefect")}
    env.pop("PREFECT_API_URL", None)
    return subprocess.Popen(
        [sys.executable, "-c", TAKES_A_TURN, str(folder)],
        cwd=REPOSITORY,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_holder_gives_its_turn_back_at_once(tmp_path: Path):
    holder, waiting = take_turn(tmp_path), take_turn(tmp_path)
    with selectors.DefaultSelector() as selector:
        for process in (holder, waiting):
            assert process.stdout is not None
            selector.register(process.stdout, selectors.EVENT_READ, process)
        [(first, _)] = selector.select(timeout=240)
        selector.unregister(first.fileobj)
        assert selector.select(timeout=2) == [], "both have the turn"
    if first.data is waiting:
        holder, waiting = waiting, holder
    holder.kill()
    holder.communicate()
    out, _ = waiting.communicate("", timeout=240)
    assert out.split() == ["in", "out"]
