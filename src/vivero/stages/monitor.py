"""Command `monitor`: do the images that come in still look like the champion's, and is it time?

Outside DVC: it reads the moving world. It changes nothing but its own memory, with the registered
model, and artifacts/monitor; whoever reads decision.json there does the training.
"""

import argparse
import hashlib
import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vivero.config.environment import read_environment
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, project_dir
from vivero.config.schema import Config
from vivero.data.class_names import class_name
from vivero.data.incoming import Arrival, Form, Looked, look_at, open_source
from vivero.data.made_images import MadeImages
from vivero.data.quarantine import QUARANTINE_NAME, reason_counts, write_quarantine
from vivero.errors import DataError
from vivero.evaluation.drift import DriftReport, Labels, drift_report
from vivero.evaluation.drift_page import Part, write_drift_page
from vivero.evaluation.drift_plots import draw_drift
from vivero.evaluation.drift_reference import DriftReference, load_drift_reference
from vivero.files import write_json
from vivero.integrity.clone import check_clone
from vivero.processes import run_stage
from vivero.registry.image_runs import fetch_from_others
from vivero.registry.monitor_memory import exchange_memory, forget_pending, read_memory
from vivero.registry.retraining import (
    Decision,
    Memory,
    Observation,
    after,
    decide,
    for_source,
    idempotency_key,
    instant,
    told_again,
    unseen,
    window_opens_at,
)
from vivero.registry.versions import CHAMPION, champion_drift_reference, find_alias
from vivero.stages.check_drift import (
    drawn_reference,
    new_generator,
    reference_features,
    typical_images,
)

NAME = "monitor"
LAST_ALARM = "last_alarm"
SETTLE_S = 2.0  # files of the last moments may still be written, or have company of the same second

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What a call found, before it decides.

    Attributes:
        arrivals: All files at the source.
        num_new: Files that no earlier call dealt with.
        looked: What came of those that were looked at; None when there were too few.
        report: Of the drift tests; None when nothing was tested.
        finding: In words.
        missing: Images that a test still needs.
        reference: What was tested against; None when nothing was.
    """

    arrivals: Sequence[Arrival]
    num_new: int
    looked: Looked | None
    report: DriftReport | None
    finding: str
    missing: int = 0
    reference: DriftReference | None = None

    @property
    def num_good(self) -> int:
        """New good images, estimated from those that were looked at."""
        if self.looked is None:
            return 0
        num_looked = self.num_looked
        return round(self.num_new * len(self.looked.keys) / num_looked) if num_looked else 0

    @property
    def num_looked(self) -> int:
        """New files that were opened."""
        looked = self.looked
        return 0 if looked is None else len(looked.keys) + len(looked.refused) + looked.num_ours


def run(
    config: Config, root: Path, now: float | None = None, is_acknowledged: bool = False
) -> Decision:
    """Look at what is new, decide, remember; leave artifacts/monitor.

    Args:
        config: Settings.
        root: Top of the repository.
        now: Seconds since 1970; None for the clock's.
        is_acknowledged: Whether the caller says by `--announced` that it has passed an alarm on;
            until then every such call decides the same alarm again, under its key.
    """
    started_at = time.monotonic()
    now = time.time() if now is None else now
    name = config.registration.model_name
    address = read_environment().vivero_incoming or config.monitor.source
    champion = find_alias(root, name, CHAMPION)
    before = read_memory(root, name)
    memory = for_source(before, address)
    found = look(config, root, address, memory, now)
    seen = Observation(
        num_new=found.num_new,
        num_good=found.num_good,
        is_alarm=None if found.report is None else found.report.is_alarm,
        finding=found.finding,
        champion_made_at=None if champion is None else champion.created_at_ms / 1000,
    )
    decision = decide(memory, seen, config.monitor, now)
    key = idempotency_key(name, memory)
    new = after(memory, found.arrivals, seen, decision, now)
    if is_acknowledged and decision.trigger:
        new = replace(new, pending=key)
    if decision.is_dealt_with and not exchange_memory(root, name, before, new):
        quicker = "another monitor decided at the same time; its decision is kept"
        decision = replace(decision, trigger=False, reasons=(*decision.reasons, quicker))
    if is_acknowledged and memory.pending is not None and not decision.trigger:
        key, decision = memory.pending, told_again(decision, memory.pending)
    folder = artifacts_dir(root, NAME)
    facts = {
        "trigger": decision.trigger,
        "reasons": list(decision.reasons),
        "idempotency_key": key,
        "num_new": found.num_new,
        "num_looked_at": found.num_looked,
        "num_bad": 0 if found.looked is None else len(found.looked.refused),
        "num_generated": 0 if found.looked is None else found.looked.num_ours,
        "bad_reasons": {} if found.looked is None else reason_counts(found.looked.refused),
        "missing": found.missing,
        "is_alarm": seen.is_alarm,
        "window": {
            "cooldown_hours": config.monitor.cooldown_hours,
            "opens_at": instant(window_opens_at(memory, config.monitor)),
        },
        "since": instant(memory.seen_until),
        "at": instant(now),
        "source": address,
        "model": name,
        "champion": None if champion is None else champion.version,
    }
    write(folder, facts, found, decision)
    made = f"{found.num_new} new images; {'; '.join(decision.reasons)}"
    made = f"{'TRAIN AGAIN' if decision.trigger else 'nothing to do'}: {made}"
    (log.warning if decision.trigger else log.info)("monitor: %s", made)
    seconds = round(time.monotonic() - started_at, 2)
    write_json(folder / "summary.json", {"stage": NAME, "seconds": seconds, "made": made})
    if decision.trigger and found.report is not None:
        keep(folder, folder / LAST_ALARM)
    return decision


def look(config: Config, root: Path, address: str, memory: Memory, now: float) -> Found:
    """List the source, and test what is new when there is enough of it."""
    if address != config.monitor.source and "://" not in address and not (root / address).exists():
        raise DataError(f"{root / address} is not there; make it, or name where new images come in")
    source = open_source(address, root)
    arrivals = [
        arrival for arrival in source.arrivals() if not now - SETTLE_S < arrival.arrived_at <= now
    ]
    new = unseen(memory, arrivals)
    reference_path = champion_drift_reference(root, config.registration.model_name)
    if reference_path is None:
        return Found(arrivals, len(new), None, None, "nothing to compare with")
    missing = config.monitor.min_images - len(new)
    if missing > 0:
        return Found(arrivals, len(new), None, None, waiting(len(new), missing), missing)
    fetch_from_others(root)
    looked = look_at(
        source,
        sampled([arrival.key for arrival in new], config),
        wanted_form(config),
        config.validate_data.num_processes,
        MadeImages(root),
    )
    missing = config.monitor.min_images - len(looked.keys)
    if missing > 0:
        return Found(arrivals, len(new), looked, None, waiting(len(looked.keys), missing), missing)
    reference = load_drift_reference(reference_path)
    report = tested(config, root, reference, looked)
    return Found(arrivals, len(new), looked, report, report.sentence(), reference=reference)


def waiting(num_images: int, missing: int) -> str:
    """What to say when there are too few images; none of them is forgotten."""
    return f"waiting: {num_images} good new images, {missing} more are needed (monitor.min_images)"


def sampled(keys: Sequence[str], config: Config) -> list[str]:
    """At most max_images of the keys, drawn by their hash: a flood costs no more than a few."""
    seed = config.check_drift.seed

    def place(key: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{key}".encode()).digest()

    return sorted(keys, key=place)[: config.monitor.max_images]


def wanted_form(config: Config) -> Form:
    """The data contract's rules for single images, and the form of the prepared ones."""
    rules, prepared = config.validate_data, config.prepare_data
    return Form(
        size_px=prepared.image_size_px,
        num_channels=prepared.num_channels,
        min_side_px=rules.min_side_px,
        max_side_px=rules.max_side_px,
        blank_max_std=rules.blank_max_std,
    )


def tested(config: Config, root: Path, reference: DriftReference, looked: Looked) -> DriftReport:
    """The drift tests on good new images; by the names of their folders on labels too."""
    features = reference_features(config, root, reference, looked.images)
    counts = reference.label_counts()
    labels = None
    if counts is not None:
        labels = Labels(counts, folder_labels(looked.keys, reference.class_names))
    chosen = drawn_reference(config, reference)
    return drift_report(chosen, features, config.check_drift, new_generator(config), labels)


def folder_labels(keys: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """How many of the files lie in a folder that has a class's name; (C,), int64."""
    places = {class_name(name): label for label, name in enumerate(class_names)}
    folders = [class_name(parts[-2]) for key in keys if len(parts := key.split("/")) > 1]
    labels = [places[folder] for folder in folders if folder in places]
    return np.bincount(np.array(labels, np.int64), minlength=len(class_names))


def write(folder: Path, facts: dict[str, Any], found: Found, decision: Decision) -> None:
    """Leave decision.json, drift.json, the quarantine and the page."""
    write_json(folder / "decision.json", facts)
    untested = {"is_alarm": None, "reason": found.finding}
    report = found.report
    write_json(folder / "drift.json", untested if report is None else report.as_json())
    looked, reference = found.looked, found.reference
    write_quarantine(folder / QUARANTINE_NAME, [] if looked is None else looked.refused)
    parts = []
    if report is not None and looked is not None and reference is not None:
        pictures = draw_drift(
            report,
            reference.class_names,
            typical_images(reference),
            looked.images,
            folder / "plots",
        )
        parts.append(Part("New images", "the champion's training data", report, pictures))
    verdict = "Train again" if decision.trigger else "Nothing to do"
    if decision.trigger is False and any(part.report.is_alarm for part in parts):
        verdict = "Drift, held back"
    shown = {name: value for name, value in facts.items() if name != "reasons"}
    write_drift_page(folder / "report.html", verdict, decision.reasons, parts, shown)


def keep(folder: Path, kept: Path) -> None:
    """Copy what asks for training to where later calls, which may find nothing, leave it alone."""
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".part-") as part:
        new, former = Path(part) / "new", Path(part) / "former"
        shutil.copytree(folder, new, ignore=shutil.ignore_patterns(LAST_ALARM, ".part-*"))
        if kept.exists():
            kept.rename(former)
        new.rename(kept)


def main() -> None:
    """Run the command on this repository."""
    parser = argparse.ArgumentParser(prog="python -m vivero.stages.monitor")
    parser.add_argument("--repeat-until-announced", action="store_true")
    parser.add_argument("--announced", metavar="KEY")
    asked = parser.parse_args()
    run_stage(NAME, lambda: _body(project_dir(), asked.announced, asked.repeat_until_announced))


def _body(root: Path, announced: str | None, is_acknowledged: bool) -> None:
    check_clone(root)
    config = load_config(root / PARAMS)
    if announced is None:
        run(config, root, is_acknowledged=is_acknowledged)
        return
    was_pending = forget_pending(root, config.registration.model_name, announced)
    said = "is noted as passed on" if was_pending else "was not pending; nothing changed"
    log.info("monitor: %s %s", announced, said)


if __name__ == "__main__":
    main()
