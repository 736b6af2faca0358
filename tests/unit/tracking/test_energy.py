"""Energy is measured where the machine says it, else estimated, and the record says which."""

from pathlib import Path

import pytest

from vivero.tracking.energy import WATTS_PER_CORE, EnergyMeter, energy_record
from vivero.tracking.journal import Entry, Journal, read_journal


def counter(folder: Path, name: str, energy_uj: int, full_uj: int = 1_000_000) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(name + "\n")
    (folder / "max_energy_range_uj").write_text(str(full_uj))
    (folder / "energy_uj").write_text(str(energy_uj))
    return folder / "energy_uj"


def work() -> int:
    return sum(range(3_000_000))


def test_without_counters_busy_time_is_taken(tmp_path: Path):
    meter = EnergyMeter(rapl_dir=tmp_path / "none")
    meter.since_last()
    work()
    piece = meter.since_last()
    assert set(piece) == {"seconds", "cpu_s"}
    assert piece["cpu_s"] > 0
    assert piece["seconds"] > 0


def test_counters_of_packages_are_read_and_may_start_again(tmp_path: Path):
    first = counter(tmp_path / "intel-rapl:0", "package-0", 100)
    second = counter(tmp_path / "intel-rapl:1", "package-1", 999_000)
    counter(tmp_path / "intel-rapl:0:0", "core", 5)  # a part of the package
    counter(tmp_path / "intel-rapl:2", "psys", 5)  # the whole machine, packages included
    meter = EnergyMeter(rapl_dir=tmp_path)
    first.write_text("500100")
    second.write_text("1000")  # full in between: 1,000 to the end, 1,000 after it
    assert meter.since_last()["cpu_j"] == pytest.approx(0.5 + 0.002)
    assert meter.since_last()["cpu_j"] == 0


def test_a_counter_that_may_not_be_read_is_left_out(tmp_path: Path):
    counter(tmp_path / "intel-rapl:0", "package-0", 100).write_text("")
    assert "cpu_j" not in EnergyMeter(rapl_dir=tmp_path).since_last()


def test_a_card_that_is_not_there_is_not_measured():
    assert "gpu_j" not in EnergyMeter(["GPU-00000000-0000-0000-0000-000000000000"]).since_last()


def test_an_estimate_says_so():
    entries = [Entry("energy", values={"seconds": 10.0, "cpu_s": s}) for s in (300.0, 150.0)]
    record = energy_record(entries)
    assert record["kwh"] == pytest.approx(450 * WATTS_PER_CORE / 3.6e6)
    assert record["measured_kwh"] == 0
    assert record["cpu_s"] == 450
    assert "estimated: busy seconds at 8 W a core" in record["how"]
    assert "measured" not in record["how"]
    assert "true figure is higher" in energy_record(entries, has_gpu=True)["how"]


def test_what_is_measured_replaces_the_estimate():
    values = {"seconds": 10.0, "cpu_s": 300.0, "cpu_j": 3.6e5, "gpu_j": 7.2e5}
    record = energy_record([Entry("energy", values=values)], num_processes=4, num_machines=2)
    assert record["kwh"] == record["measured_kwh"] == pytest.approx(2 * 0.3)
    assert record["cpu_s"] == 1200
    for said in ("RAPL", "NVML", "the first of 4 processes on 2 machine(s)"):
        assert said in record["how"]


def test_no_record_is_said_to_be_none():
    assert energy_record([])["how"] == "not recorded"


def test_work_that_is_done_again_is_counted_again(tmp_path: Path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(Entry("metrics", images_seen=64, values={"train/loss": 1.0}))
    journal.append(Entry("energy", values={"seconds": 1.0, "cpu_s": 2.0}))
    journal.truncate_after(0)
    journal.append(Entry("energy", values={"seconds": 1.0, "cpu_s": 3.0}))
    journal.close()
    assert energy_record(read_journal(journal.path))["cpu_s"] == 5
