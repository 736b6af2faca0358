"""What a command says: all of it on our terminal, in the log what a person would have read."""

import sys
from pathlib import Path

import pytest

from pipelines.commands import Heard, LineSplitter, environment, run_heard


@pytest.mark.parametrize(
    ("blocks", "lines"),
    [
        ([b"one\ntwo\n"], ["one", "two"]),
        ([b"on", b"e\r\ntw", b"o"], ["one", "two"]),
        ([b"\r 10%", b"\r 50%", b"\r100%\n", b"done\n"], ["100%", "done"]),
        ([b"\x1b[32mgreen\x1b[0m\n", b"\n", b"\x1b[2K\r\n"], ["green"]),
        ([b"\xff\n"], ["\ufffd"]),
    ],
)
def test_a_bar_counts_once_and_colours_not_at_all(blocks: list[bytes], lines: list[str]):
    splitter = LineSplitter()
    heard = [line for block in blocks for line in splitter.feed(block)]
    assert [line.strip() for line in [*heard, *splitter.end()]] == lines


def test_a_bar_that_is_drawn_for_hours_takes_no_memory():
    splitter = LineSplitter()
    for percent in range(10_000):
        assert splitter.feed(f"\r{percent}".encode()) == []
    assert len(splitter._rest) < 20


def test_output_and_errors_go_on_to_ours_and_into_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    said: list[str] = []
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    exit_code, heard = run_heard([sys.executable, "-c", code], tmp_path, {}, said.append)
    assert exit_code == 3
    assert sorted(said) == sorted(heard.lines) == ["err", "out"]
    assert capfd.readouterr() == ("out\n", "err\n")


def test_a_command_runs_the_code_of_its_clone(tmp_path: Path):
    assert environment(tmp_path)["PYTHONPATH"] == str(tmp_path / "src")
    assert environment(tmp_path)["PATH"].startswith(str(Path(sys.executable).parent))


STAGE_ENDED = "ERROR: failed to reproduce 'train': failed to run: python -m train, exited with 1"


@pytest.mark.parametrize(
    ("lines", "is_nobody_there"),
    [
        (['ERROR: unexpected error - Could not connect to the endpoint URL: "http://x/"'], True),
        (["ERROR: failed to transfer 'ab' - [Errno 5] We encountered an internal error."], True),
        (["ERROR: unexpected error - An error occurred (SlowDown) when calling PutObject"], True),
        (["[rank0]: NCCL error: connection reset by peer", STAGE_ENDED], False),
        (["RuntimeError: cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", STAGE_ENDED], False),
        (["ERROR: connection reset by peer", STAGE_ENDED], False),
        (["connection refused", "ERROR: unexpected error - no space left on device"], False),
        (["ERROR: cuDNN internal error"], False),
    ],
)
def test_dvc_alone_says_that_its_remote_does_not_answer(lines: list[str], is_nobody_there: bool):
    heard = Heard(lambda _line: None)
    heard.hear(lines)
    assert heard.names_nobody_there is is_nobody_there


def test_no_line_that_is_heard_names_who_and_key():
    said: list[str] = []
    heard = Heard(said.append)
    heard.hear(["fetching https://somebody:secret@host/data", "postgresql://me:key@db/x failed"])
    assert said == list(heard.lines)
    assert said == ["fetching https://***@host/data", "postgresql://***@db/x failed"]
