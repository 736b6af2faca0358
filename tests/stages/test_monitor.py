"""The command monitor on a real folder, a real registry and the real extractor."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.prepared_images import stripes, write_prepared
from vivero.data.quarantine import read_quarantine
from vivero.errors import DataError
from vivero.registry.monitor_memory import forget_pending, read_memory
from vivero.stages import compute_reference, monitor
from vivero.tracking.store import open_client

DECISION, SUMMARY = "decision.json", "summary.json"
CLASS_NAMES = ["top", "middle", "low"]
HOUR_S = 3600.0
NOW = 4_000_000_000.0  # long after every file of the tests was made


@pytest.fixture
def config(config_factory):
    never = {"monitor.retrain_after_images": None, "monitor.retrain_after_days": None}
    return config_factory(never)


@pytest.fixture
def house(root: Path, config) -> Path:
    """A registry without a champion, and the folder that images come into."""
    (root / "work/incoming").mkdir(parents=True)
    return root


@pytest.fixture
def champion(house: Path, config, monkeypatch) -> Path:
    """The same with a champion, whose drift reference is of real stripes."""
    write_prepared(house, CLASS_NAMES)
    compute_reference.run(config, house)
    path = house / "artifacts/compute_reference/reference/drift.safetensors"
    monkeypatch.setattr(monitor, "champion_drift_reference", lambda _root, _name: path)
    client = open_client(house)
    client.create_registered_model("vivero")
    version = client.create_model_version("vivero", source=str(house))
    client.set_registered_model_alias("vivero", "champion", version.version)
    return house


def bring(root: Path, num_images: int, seed: int, factor: float = 1.0, ours: int = 0) -> None:
    """Put images into the folder, the first of them with the record of a generated one."""
    images, labels = stripes(num_images, CLASS_NAMES, seed)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / "work/incoming" / CLASS_NAMES[label]
        folder.mkdir(exist_ok=True)
        record = PngImagePlugin.PngInfo()
        if index < ours:
            record.add_text("vivero", "{}")
        picture = Image.fromarray((image[0] * factor).astype(np.uint8))
        picture.save(folder / f"{seed}-{index}.png", pnginfo=record)


def decided(root: Path) -> dict[str, object]:
    return dict(json.loads((root / "artifacts/monitor/decision.json").read_text()))


def test_before_the_first_champion_it_says_so_and_triggers_nothing(house: Path, config):
    bring(house, 30, seed=1)
    assert not monitor.run(config, house, NOW).trigger
    found = decided(house)
    assert found["num_new"] == 30
    assert "no champion yet" in " ".join(found["reasons"])  # type: ignore[arg-type]


def test_the_life_of_a_source(champion: Path, config):
    root = champion
    bring(root, 12, seed=1)
    assert not monitor.run(config, root, NOW).trigger
    assert decided(root)["missing"] == 8

    bring(root, 20, seed=2)  # the twelve were not forgotten
    assert not monitor.run(config, root, NOW).trigger
    assert decided(root)["num_new"] == 32
    assert decided(root)["is_alarm"] is False
    monitor.run(config, root, NOW + 60)
    assert decided(root)["num_new"] == 0

    bring(root, 34, seed=3, factor=0.2, ours=2)
    (root / "work/incoming/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    (root / "work/incoming/copy.png").write_bytes(
        (root / "work/incoming" / "top").glob("3-*.png").__next__().read_bytes()
    )
    assert monitor.run(config, root, NOW + 120).trigger
    found = decided(root)
    assert found["num_new"] == 36
    assert found["num_generated"] in (2, 3)  # the copy may be of one of the two
    reasons = {row.reason for row in read_quarantine(root / "artifacts/monitor/quarantine.parquet")}
    assert "truncated" in reasons
    first_key = found["idempotency_key"]
    assert read_memory(root, "vivero").number == 1
    page = (root / "artifacts/monitor/report.html").read_bytes()
    monitor.run(config, root, NOW + 130)
    assert decided(root)["num_new"] == 0
    assert (root / "artifacts/monitor/report.html").read_bytes() != page
    last_alarm = root / "artifacts/monitor/last_alarm"
    assert (last_alarm / "report.html").read_bytes() == page, "it can still be looked at"
    kept = {name: json.loads((last_alarm / name).read_text()) for name in (DECISION, SUMMARY)}
    assert kept[DECISION]["idempotency_key"] == first_key
    assert kept[SUMMARY]["made"].startswith("TRAIN AGAIN")

    bring(root, 40, seed=4, factor=0.2)
    for minutes in (1, 5, 60, 23 * 60):
        assert not monitor.run(config, root, NOW + 120 + 60 * minutes).trigger
        assert decided(root)["is_alarm"] is True
        assert json.loads((last_alarm / DECISION).read_text())["idempotency_key"] == first_key
        assert "held back" in " ".join(decided(root)["reasons"])  # type: ignore[arg-type]
    assert monitor.run(config, root, NOW + 120 + 25 * HOUR_S).trigger, "the alarm was kept"
    assert decided(root)["idempotency_key"] != first_key
    assert decided(root)["num_new"] == 40


def test_an_alarm_that_nobody_passed_on_is_told_again_until_somebody_says_so(
    champion: Path, config
):
    root = champion
    bring(root, 30, seed=3, factor=0.2)
    assert monitor.run(config, root, NOW, is_acknowledged=True).trigger
    key = str(decided(root)["idempotency_key"])  # and here its caller dies
    assert not monitor.run(config, root, NOW + 30).trigger, "told again to who does not ask for it"
    for seconds in (60, 3600):
        assert monitor.run(config, root, NOW + seconds, is_acknowledged=True).trigger
        assert decided(root)["idempotency_key"] == key
        assert decided(root)["num_new"] == 0
    assert read_memory(root, "vivero").number == 1, "one alarm, however often it is told"

    assert not forget_pending(root, "vivero", "monitor-vivero-0-of-another")
    assert monitor.run(config, root, NOW + 3700, is_acknowledged=True).trigger
    assert forget_pending(root, "vivero", key)
    assert not forget_pending(root, "vivero", key)
    assert not monitor.run(config, root, NOW + 3800, is_acknowledged=True).trigger
    assert decided(root)["idempotency_key"] != key


def test_the_provenance_that_vivero_writes_is_the_one_that_is_looked_for():
    from vivero.data.provenance import carries_provenance
    from vivero.evaluation import grids

    content = io.BytesIO()
    record = PngImagePlugin.PngInfo()
    record.add_text(grids.PROVENANCE_KEY, "{}")
    Image.new("L", (8, 8)).save(content, format="PNG", pnginfo=record)
    assert carries_provenance(content.getvalue())
    bare = io.BytesIO()
    Image.new("L", (8, 8)).save(bare, format="PNG")
    assert not carries_provenance(bare.getvalue())
    assert not carries_provenance(b"rubbish")


def test_a_source_that_is_not_there_is_no_quiet_day(
    champion: Path, config, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("VIVERO_INCOMING", str(champion / "nowhere"))
    with pytest.raises(DataError, match="nowhere is not there"):
        monitor.run(config, champion, NOW)
