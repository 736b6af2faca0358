"""Command `judge`: compare the candidate's report with the limits and with the champion's report.

Outside DVC, because who is champion is a state of the world: DVC would not see it change. A verdict
that let the champion pass stays, until its report, the settings of `judge` or a gate are others.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, served_bundle_dir
from vivero.config.schema import Config
from vivero.errors import DataError
from vivero.evaluation.protocol import BESIDE_THE_RULER, require_protocol
from vivero.evaluation.reference import load_reference
from vivero.files import read_json, sha256_of_file, sha256_of_json, write_json, write_text
from vivero.integrity.entry import verified
from vivero.integrity.records import shown
from vivero.processes import run_stage
from vivero.registry.bundle import Identity, load_bundle, read_identity
from vivero.registry.conditions import NO_TREE_GATE, export_gate, tree_gate
from vivero.registry.differences import Gate, Measurements
from vivero.registry.gates import Verdict, judge, ruler_hash
from vivero.registry.latency import Latency, measured_latency
from vivero.registry.report_record import EVALUATE_AGAIN, read_report_record
from vivero.registry.seed_variance import read_seed_variance, recipe_of, spreads_for
from vivero.registry.verdict_page import LETS_PASS, MARKS, verdict_markdown
from vivero.registry.verdict_plot import plot_verdict
from vivero.registry.verdict_record import read_verdict
from vivero.registry.versions import (
    CHAMPION,
    ModelVersion,
    bring_here,
    find_alias,
    identity_of,
)
from vivero.stages.champion_report import champion_report, per_image_beside
from vivero.stages.evaluate import METRICS_NAME, ruler_of
from vivero.tracking.lineage import read_code_state

log = logging.getLogger(__name__)


def run(config: Config, root: Path) -> Verdict:
    """Judge artifacts/evaluate; leave verdict.json, .md and .png in artifacts/judge."""
    started_at = time.monotonic()
    candidate = read_report(root)
    _require_present_ruler(config, root, candidate["protocol"])
    lineage = candidate.get("lineage") or {}
    champion = find_alias(root, config.registration.model_name, CHAMPION)
    identity = read_identity(served_bundle_dir(root))
    weights_sha256 = identity.weights_sha256
    present = None if champion is None else identity_of(root, champion)
    is_champion_itself = present == identity
    conditions = (
        _tree_gate(config, root, candidate, is_champion_itself),
        export_gate(root, weights_sha256),
    )
    report, latency, spreads = None, None, None
    if champion is not None and not is_champion_itself:
        report = champion_report(config, root, champion, candidate)
        spreads = spreads_for(
            read_seed_variance(root),
            recipe_of(config),
            lineage.get("data_digest"),
            ruler_hash(candidate),
        )
        if config.judge.latency_budget_s:
            latency = latency_beside(root, champion, config)
    gain = None if latency is None else latency.gain
    verdict = judge(
        candidate,
        report,
        config.judge,
        conditions,
        Measurements(gain, spreads),
        is_champion=is_champion_itself,
    )
    basis = {
        **asdict(identity),
        "report_sha256": sha256_of_file(artifacts_dir(root, "evaluate") / METRICS_NAME),
        "settings": config.judge.model_dump(mode="json"),
    }
    folder = artifacts_dir(root, "judge")
    stands = is_champion_itself and _stands(folder, basis, verdict)
    if not stands:
        _write(
            folder,
            {
                **verdict.as_json(),
                **basis,
                "champion": None if champion is None else champion.version,
                "champion_weights_sha256": None if present is None else present.weights_sha256,
                "champion_sampling_sha256": None if present is None else present.sampling_sha256,
                "is_champion_itself": is_champion_itself,
                "latency_ms": None
                if latency is None
                else {"candidate": latency.candidate_ms, "champion": latency.champion_ms},
            },
        )
    _summarise(verdict, stands, folder, time.monotonic() - started_at)
    return verdict


def _tree_gate(config: Config, root: Path, report: dict[str, Any], is_champion: bool) -> Gate:
    if not config.judge.require_clean_tree:
        return NO_TREE_GATE
    made_by = {
        "trained": report["lineage"].get("is_dirty"),
        "evaluated": (report.get("evaluated_by") or {}).get("is_dirty"),
    }
    if not is_champion:  # nothing is decided about the champion itself
        made_by["judged"] = read_code_state(root).is_dirty
    return tree_gate(root, made_by)


def _require_present_ruler(config: Config, root: Path, protocol: Mapping[str, Any]) -> None:
    """Refuse a report that other data, settings or code made than the present ones.

    The packages are those of the machine that evaluated: they are in the hash of the ruler, but
    another machine may judge.

    Raises:
        DataError: It names what differs.
    """
    reference = load_reference(artifacts_dir(root, "compute_reference") / "reference")
    expected = ruler_of(config, reference, config.sample.num_images, config.sample.seed)
    differs = sorted(
        name
        for name in (expected.keys() | protocol.keys()) - {*BESIDE_THE_RULER, "packages"}
        if sha256_of_json(protocol.get(name)) != sha256_of_json(expected.get(name))
    )
    if differs:
        raise DataError(
            f"artifacts/evaluate/metrics.json was not made with the present data, settings and "
            f"code of the evaluation (its protocol differs in: {shown(', '.join(differs))}); "
            f"{EVALUATE_AGAIN}, then `vivero judge`"
        )


def _stands(folder: Path, basis: Mapping[str, Any], verdict: Verdict) -> bool:
    """Whether verdict.json is the one that let the champion pass, and no gate says otherwise now.

    Args:
        folder: Where verdict.json may be.
        basis: What it must have been made from.
        verdict: The present one, of limits and conditions alone.
    """
    path = folder / "verdict.json"
    try:
        if read_verdict(path).verdict not in LETS_PASS:
            return False
    except DataError:  # there is none, or another version of vivero wrote it
        return False
    found = read_json(path)
    is_same = all(found.get(key) == value for key, value in basis.items())
    alone = [gate for gate in verdict.as_json()["gates"] if gate["name"] != "champion"]
    return is_same and all(gate in found["gates"] for gate in alone)


def _write(folder: Path, made: dict[str, Any]) -> None:
    write_json(folder / "verdict.json", made)
    write_text(folder / "verdict.md", verdict_markdown(made))
    if not plot_verdict(made, folder / "verdict.png"):
        (folder / "verdict.png").unlink(missing_ok=True)  # of an earlier comparison


def _summarise(verdict: Verdict, stands: bool, folder: Path, seconds: float) -> None:
    for gate in verdict.gates:
        log.info("judge: %s  %s", MARKS[gate.passed], gate.reason)
    log.info("judge: verdict %s", verdict.verdict)
    passed = sum(gate.passed is True for gate in verdict.gates)
    made = f"verdict '{verdict.verdict}', {passed} of {len(verdict.gates)} gates passed"
    if stands:
        made += "; artifacts/judge keeps the verdict that let it pass"
        log.info("judge: the verdict that let it pass stays in artifacts/judge")
    summary = {"stage": "judge", "seconds": round(seconds, 2), "made": made}
    write_json(folder / "summary.json", summary)


def latency_beside(root: Path, champion: ModelVersion, config: Config) -> Latency:
    """Time the candidate and the champion on this machine."""
    settings = config.judge
    found = measured_latency(
        load_bundle(served_bundle_dir(root)),
        load_bundle(bring_here(root, champion) / "bundle"),
        settings.latency_batch_images,
        settings.latency_budget_s,
    )
    log.info(
        "judge: %.3g ms per image, the champion %.3g (batches of %d)",
        *(found.candidate_ms, found.champion_ms, settings.latency_batch_images),
    )
    return found


def read_report(root: Path) -> dict[str, Any]:
    """What `evaluate` found.

    Raises:
        DataError: When it has not run, or its report cannot be used, or is not of the model as it
            is served.
    """
    path = artifacts_dir(root, "evaluate") / METRICS_NAME
    if not path.exists():
        raise DataError(f"{path.relative_to(root)} is missing; run `dvc repro evaluate` first")
    report = read_report_record(path).values()
    lineage_path = served_bundle_dir(root) / "lineage.json"
    if "lineage" not in report and lineage_path.exists():
        report["lineage"] = read_json(lineage_path)
    identity = read_identity(served_bundle_dir(root))
    report.setdefault("lineage", {})
    of_report = Identity(
        str(report["lineage"].get("weights_sha256")),
        sha256_of_json(report["protocol"].get("sampling")),
    )
    if of_report != identity:
        raise DataError(
            "artifacts/evaluate/metrics.json is the report of another model, or of images made "
            "with other settings of sampling than those in artifacts/sample/bundle; run "
            "`dvc repro evaluate`"
        )
    require_protocol(report["protocol"])
    report["per_image"] = per_image_beside(path.parent, report, identity.weights_sha256)
    return report


def main() -> None:
    """Run the command on this repository."""
    run_stage("judge", verified("judge", lambda root: run(load_config(root / PARAMS), root)))


if __name__ == "__main__":
    main()
