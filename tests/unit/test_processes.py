"""A stage dies with DVC, a child with its parent, and errors end in one sentence."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vivero.processes import FrozenError, run_in_group

STAGE = """
import sys, time
from pathlib import Path
from vivero.processes import run_stage
def body():
    import os
    Path(sys.argv[1]).write_text(str(os.getpid()))
    time.sleep(60)
run_stage("sleeper", body)
"""
DVC = """
import subprocess, sys
subprocess.run(["sh", "-c", f"{sys.executable} {sys.argv[1]} {sys.argv[2]}; true"])
"""


def wait_for(path: Path) -> int:
    for _ in range(400):
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.05)
    pytest.fail("the stage did not start")


def gone(pid: int, patience_s: float = 5) -> bool:
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def start(tmp_path: Path, env: dict[str, str]) -> tuple["subprocess.Popen[bytes]", int]:
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "dvc.py").write_text(DVC)
    driver = subprocess.Popen(
        [sys.executable, tmp_path / "dvc.py", tmp_path / "stage.py", tmp_path / "pid"],
        env={**os.environ, **env},
    )
    return driver, wait_for(tmp_path / "pid")


def test_a_stage_dies_with_dvc_although_a_shell_stands_between(tmp_path: Path):
    driver, stage_pid = start(tmp_path, {"DVC_STAGE": "sleeper"})
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert gone(stage_pid)


def test_a_stage_started_by_hand_outlives_its_shell(tmp_path: Path):
    driver, stage_pid = start(tmp_path, {})
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    alive = not gone(stage_pid, patience_s=0.5)
    os.kill(stage_pid, signal.SIGKILL)
    assert alive


GROUP = """
import sys
from pathlib import Path
from vivero.processes import run_in_group
run_in_group([sys.executable, "-c", sys.argv[1]], cwd=Path("."), env={})
"""
CHILD = "import os,time; open({path!r},'w').write(str(os.getpid())); time.sleep(60)"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_what_ends_us_ends_the_group(tmp_path: Path, how: signal.Signals):
    child = CHILD.format(path=str(tmp_path / "pid"))
    driver = subprocess.Popen([sys.executable, "-c", GROUP, child], stderr=subprocess.DEVNULL)
    child_pid = wait_for(tmp_path / "pid")
    os.kill(driver.pid, how)
    driver.wait()
    assert gone(child_pid)


LEFT_BEHIND = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(60)
"""


def test_what_the_command_started_does_not_outlive_us(tmp_path: Path):
    grandchild = CHILD.format(path=str(tmp_path / "pid"))
    (tmp_path / "command.py").write_text(LEFT_BEHIND)
    code = (
        "import sys\nfrom pathlib import Path\nfrom vivero.processes import run_in_group\n"
        "run_in_group([sys.executable, *sys.argv[1:]], cwd=Path('.'), env={})"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "command.py"), grandchild]
    )
    grandchild_pid = wait_for(tmp_path / "pid")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert gone(grandchild_pid)


IN_A_SESSION_OF_ITS_OWN = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)
time.sleep(60)
"""


def test_a_frozen_command_is_killed_with_all_that_it_started(tmp_path: Path):
    grandchild = CHILD.format(path=str(tmp_path / "pid"))
    command = [sys.executable, "-c", IN_A_SESSION_OF_ITS_OWN, grandchild]
    with pytest.raises(FrozenError):
        run_in_group(command, tmp_path, {}, is_frozen=lambda: bool((tmp_path / "pid").exists()))
    assert gone(wait_for(tmp_path / "pid"))


def test_a_command_that_is_not_frozen_ends_by_itself(tmp_path: Path):
    command = [sys.executable, "-c", "import sys, time; time.sleep(1.2); sys.exit(7)"]
    looks = []
    assert run_in_group(command, tmp_path, {}, is_frozen=lambda: bool(looks.append(1))) == 7
    assert looks, "nobody looked"


# It notes each signal, and ends on the one that argv names.
STUBBORN = """
import os, signal, sys, time
path, last = sys.argv[1], int(sys.argv[2])
def note(number, frame):
    with open(path, "a") as file:
        file.write(f"{number}\\n")
    if number == last:
        os._exit(0)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, note)
open(path + "-pid", "w").write(str(os.getpid()))
while True:
    time.sleep(0.05)
"""
DRIVER = """
import signal, sys
from pathlib import Path
from vivero.processes import run_in_group
def end(number, frame):
    raise SystemExit(128 + number)
signal.signal(signal.SIGTERM, end)
run_in_group(
    [sys.executable, *sys.argv[2:]], Path("."), {}, stop_signal=signal.Signals(int(sys.argv[1])),
    patience_s=1.0, is_frozen=lambda: False,
)
"""


def stop_stubborn(
    tmp_path: Path, stop_signal: int, ends_on: int
) -> tuple["subprocess.Popen[bytes]", int]:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    script = [str(tmp_path / "stubborn.py"), str(tmp_path / "signals"), str(ends_on)]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(int(stop_signal)), *script])
    pid = wait_for(tmp_path / "signals-pid")
    driver.terminate()
    return driver, pid


@pytest.mark.parametrize(
    ("stop_signal", "ends_on", "received"),
    [
        (signal.SIGINT, signal.SIGINT, [signal.SIGINT]),
        (signal.SIGINT, signal.SIGTERM, [signal.SIGINT, signal.SIGTERM]),
        (signal.SIGTERM, signal.SIGTERM, [signal.SIGTERM]),
        (signal.SIGTERM, 0, [signal.SIGTERM]),  # and then SIGKILL, which nobody can note
    ],
)
def test_a_watched_command_is_asked_to_stop_in_its_own_way_before_it_is_killed(
    tmp_path: Path, stop_signal: int, ends_on: int, received: list[int]
):
    driver, pid = stop_stubborn(tmp_path, stop_signal, ends_on)
    assert driver.wait(timeout=20) == 143
    assert gone(pid)
    assert [int(line) for line in (tmp_path / "signals").read_text().split()] == received


def test_a_second_signal_leaves_the_command_to_its_guard(tmp_path: Path):
    driver, pid = stop_stubborn(tmp_path, signal.SIGTERM, ends_on=0)
    time.sleep(0.3)
    driver.terminate()
    assert driver.wait(timeout=20) == 143
    assert gone(pid)


@pytest.mark.parametrize(
    ("line", "exit_code", "said"),
    [
        ("raise errors.DataError('the label is -1')", 1, "tidy: the label is -1"),
        ("raise errors.TrackingError('no answer')", 75, "tidy: no answer"),
        ("raise KeyboardInterrupt", 130, "tidy: stopped by you"),
    ],
)
def test_an_error_is_one_sentence(line: str, exit_code: int, said: str):
    code = (
        "from vivero import errors\nfrom vivero.processes import run_stage\n"
        f"def body():\n    {line}\nrun_stage('tidy', body)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == exit_code
    assert said in result.stderr
    assert "Traceback" not in result.stderr
