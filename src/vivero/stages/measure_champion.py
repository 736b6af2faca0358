"""Command `measure-champion`: measure the champion on images that no judgement used.

The value that a candidate won by is too good in the mean, because it was chosen among candidates.
After a promotion the champion makes as many images again from another seed, derived from its
version and the protocol, and the same function as in stage `evaluate` measures them. The report is
signed and kept with the version; judgements do not use it: they need the noise that models share.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any

from vivero.config.environment import tracking_uri
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir
from vivero.config.schema import Config
from vivero.errors import PromotionError, ViveroError
from vivero.evaluation.per_image import PER_IMAGE_NAME
from vivero.evaluation.protocol import protocol_hash
from vivero.evaluation.reference import load_reference
from vivero.files import sha256_of_json
from vivero.integrity.entry import verified
from vivero.processes import run_stage
from vivero.registry.bundle import load_bundle
from vivero.registry.differences import DISTANCES, metrics_named
from vivero.registry.report_record import read_report_record
from vivero.registry.signed_uploads import add_signed_report
from vivero.registry.versions import (
    CHAMPION,
    RECORDED_TAG,
    ModelVersion,
    bring_here,
    find_alias,
    report_folder,
)
from vivero.stages.champion_report import evaluate_version, kept_evaluation, no_report
from vivero.stages.evaluate import METRICS_NAME, ruler_of
from vivero.tracking.store import open_client, refusals, store_lock

AGAIN = "`vivero measure-champion`"
MAX_SEED = 2**31

log = logging.getLogger(__name__)


def run(config: Config, root: Path) -> str:
    """Measure the champion on fresh images, once per protocol; returns what was recorded.

    Raises:
        PromotionError: When there is no champion.
        ViveroError: When the real images, the reference or the champion's files are not here.
    """
    name = config.registration.model_name
    champion = find_alias(root, name, CHAMPION)
    if champion is None:
        raise PromotionError(
            f"model '{name}' has no champion to measure; `vivero promote` chooses one"
        )
    bundle = load_bundle(bring_here(root, champion) / "bundle")
    judged = report_folder(root, champion)
    if judged is None:
        raise no_report(champion)
    protocol = read_report_record(judged / METRICS_NAME).values()["protocol"]
    num_images = config.sample.num_images
    reference = load_reference(artifacts_dir(root, "compute_reference") / "reference")
    ruler = ruler_of(config, reference, num_images, config.sample.seed)
    used = {config.sample.seed, protocol.get("sample_seed")}
    seed = fresh_seed(champion, sha256_of_json(ruler), used)
    fresh_ruler = ruler_of(config, reference, num_images, seed)
    protocol_name = protocol_hash(sha256_of_json(fresh_ruler), bundle.sampling_defaults)
    folder = (
        report_folder(root, champion, protocol_name)
        or kept_evaluation(root, champion, protocol_name)
        or evaluate_version(config, root, champion, bundle, (num_images, seed))
    )
    recorded = _recorded(read_report_record(folder / METRICS_NAME).values())
    client = open_client(root)
    with refusals(tracking_uri(root)), store_lock(root):
        add_signed_report(root, client, champion, [folder / METRICS_NAME, folder / PER_IMAGE_NAME])
        client.set_model_version_tag(name, champion.version, RECORDED_TAG, recorded)
    log.info("version %s of '%s' is recorded with %s", champion.version, name, recorded)
    return recorded


def measure_after_promotion(config: Config, root: Path) -> None:
    """`run`; where it cannot run here, say how to do it later: the promotion is done."""
    try:
        run(config, root)
    except (ViveroError, OSError) as error:
        log.warning(
            "the champion was promoted, but not measured on fresh images: %s. "
            "Run %s in a clone that has the artifacts",
            error,
            AGAIN,
        )


def fresh_seed(version: ModelVersion, ruler_hash: str, used: set[Any]) -> int:
    """A seed that depends on the version and the protocol alone, and is none of the used ones."""
    text = f"{version.name}/{version.version}/{version.weights_sha256}/{ruler_hash}"
    seed = int(hashlib.sha256(text.encode()).hexdigest(), 16) % MAX_SEED
    while seed in used:
        seed += 1
    return seed


def _recorded(report: dict[str, Any]) -> str:
    """The primary metric with its interval, for a tag."""
    found = metrics_named(report, *DISTANCES)[:1]
    return (
        "; ".join(
            f"{name} {metric['value']:.4g} [{metric['low']:.4g}, {metric['high']:.4g}]"
            for name, metric in found
        )
        or "no Fréchet distance"
    )


def main() -> None:
    """Run the command on this repository."""
    run_stage(
        "measure_champion",
        verified("measure_champion", lambda root: run(load_config(root / PARAMS), root)),
    )


if __name__ == "__main__":
    main()
