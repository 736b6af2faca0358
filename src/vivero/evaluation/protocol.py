"""The protocol of an evaluation: everything that changes a metric but the model itself.

The ruler is what two reports must share to be compared. The settings of sampling are beside it:
each model is sampled as it is served, and they are part of what is judged.
"""

import functools
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from vivero.code_digest import module_closure_digest
from vivero.errors import DataError
from vivero.files import sha256_of_json

CODE = ("vivero.stages.compute_reference", "vivero.stages.evaluate", "vivero.stages.sample")
WITHOUT_EFFECT = (  # modules that draw, report or check, or whose values are in the protocol
    "vivero.config",
    "vivero.evaluation.drawn_text",
    "vivero.evaluation.drift_reference",
    "vivero.evaluation.grids",
    "vivero.evaluation.page",
    "vivero.evaluation.pictures",
    "vivero.evaluation.plots",
    "vivero.integrity",
    "vivero.processes",
    "vivero.tracking",
)
PACKAGES = ("clean-fid", "numpy", "pillow", "scipy", "timm", "torch")  # whose code computes
SAMPLING_CODE = ("vivero.stages.sample",)
WITHOUT_EFFECT_ON_SAMPLES = (*WITHOUT_EFFECT, "vivero.code_digest", "vivero.evaluation")
BESIDE_THE_RULER = ("hash", "ruler_hash", "sampling")


@functools.cache
def evaluation_code_digest() -> str:
    """Hash of the code of the evaluation, as this process found it first."""
    return module_closure_digest(CODE, WITHOUT_EFFECT)


@functools.cache
def sampling_code_digest() -> str:
    """Hash of the code that makes images from a model, as this process found it first."""
    return module_closure_digest(SAMPLING_CODE, WITHOUT_EFFECT_ON_SAMPLES)


def package_versions() -> dict[str, str]:
    """Versions of the packages that compute metrics."""
    return {name: version(name) for name in PACKAGES}


def protocol_of(ruler: Mapping[str, Any], sampling: Mapping[str, Any]) -> dict[str, Any]:
    """What a report holds under `protocol`: the ruler, the sampling, and the hashes of both.

    Args:
        ruler: Everything but the model and how it is sampled, as JSON values.
        sampling: Settings of sampling that the model is served by.
    """
    ruler_hash = sha256_of_json(ruler)
    return {
        "hash": protocol_hash(ruler_hash, sampling),
        "ruler_hash": ruler_hash,
        **ruler,
        "sampling": dict(sampling),
    }


def protocol_hash(ruler_hash: str, sampling: Mapping[str, Any]) -> str:
    """Hash of a whole protocol, the name under which a report is kept."""
    return sha256_of_json({"ruler": ruler_hash, "sampling": dict(sampling)})


def require_protocol(protocol: Mapping[str, Any]) -> None:
    """Refuse a protocol whose hashes are not those of its values.

    Raises:
        DataError: When a value was changed after the evaluation.
    """
    ruler = {name: value for name, value in protocol.items() if name not in BESIDE_THE_RULER}
    expected = protocol_of(ruler, protocol["sampling"])
    found = {name: protocol.get(name) for name in ("hash", "ruler_hash")}
    if found != {name: expected[name] for name in found}:
        raise DataError(
            "the protocol in artifacts/evaluate/metrics.json does not have the hashes of its "
            "values; run `dvc repro -f -s evaluate`"
        )
