"""The card of a model version: what the transparency duties of the EU AI Act ask to be told.

Pure: records in, Markdown out. Every figure is looked up by the place it is recorded at, which
stands beside it, so a reader, or a test, can hold each one against its source; what no record
holds is said to be unknown. The bundle's own card (`registry.card`) is written before the judging.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vivero.evaluation.directions import better_of
from vivero.registry.card import code

UNKNOWN, NONE = "unknown", "none"
ABOUT_COPIES = ("copied_share.", "nearest_ratio.")

ONLY_IF_ANY = {
    "sample/bundle/lineage.json#/initial_model",
    "sample/bundle/lineage.json#/not_bit_exact",
}

Rows = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """A part of the card: prose without figures, then rows of (what, where it is recorded)."""

    title: str
    prose: str
    rows: Rows = ()


IDENTITY: Rows = (
    ("name", "params.yaml#/register/model_name"),
    ("provider", "params.yaml#/register/provider"),
    ("contact", "params.yaml#/register/contact"),
    ("network", "sample/bundle/config.json#/model/name"),
    ("parameters", "train/summary.json#/num_parameters"),
    ("side of its images, px", "sample/bundle/config.json#/image/size_px"),
    ("channels of its images", "sample/bundle/config.json#/image/num_channels"),
    ("classes it can be asked for", "sample/bundle/config.json#/class_names"),
)
DATA: Rows = (
    ("data set", "data/card.json#/name"),
    ("source", "data/card.json#/source"),
    ("licence", "data/card.json#/licence"),
    ("collected by", "data/card.json#/collected_by"),
    ("version (md5 in data.dvc)", "sample/bundle/lineage.json#/data_digest"),
    ("images received", "validate_data/summary.json#/num_images"),
    ("images in quarantine", "validate_data/summary.json#/num_quarantined"),
    ("expectations of the data contract", "validate_data/summary.json#/num_expectations"),
    ("expectations met", "validate_data/summary.json#/num_expectations_met"),
    ("groups of exact duplicates", "validate_data/summary.json#/num_duplicate_groups"),
    ("images trained on", "prepare_data/images/card.json#/counts/train"),
    ("images held out for validation", "prepare_data/images/card.json#/counts/validation"),
    ("images held out for tests", "prepare_data/images/card.json#/counts/test"),
)
TRAINING: Rows = (
    ("images seen, repetitions counted", "train/summary.json#/total_images"),
    ("time, s", "train/summary.json#/seconds"),
    ("peak memory, bytes", "train/summary.json#/peak_memory_bytes"),
    ("images in a batch", "train/journal.jsonl#/params/train.batch_images"),
    ("learning rate", "train/journal.jsonl#/params/train.learning_rate"),
    ("number format", "train/journal.jsonl#/params/train.precision"),
    ("model it started from", "sample/bundle/lineage.json#/initial_model"),
    ("resumed after (images seen)", "train/summary.json#/resumed_from"),
    ("processor", "train/summary.json#/surroundings/device"),
    ("processes", "train/summary.json#/surroundings/processes"),
    ("threads of each", "train/summary.json#/surroundings/threads"),
    ("energy, kWh", "train/summary.json#/energy/kwh"),
    ("of it measured, kWh", "train/summary.json#/energy/measured_kwh"),
    ("processor time, s", "train/summary.json#/energy/cpu_s"),
    ("how the energy was found", "train/summary.json#/energy/how"),
)
PROTOCOL: Rows = (
    ("hash of the protocol", "evaluate/metrics.json#/protocol/hash"),
    ("images judged", "evaluate/metrics.json#/protocol/n"),
    ("their seed", "evaluate/metrics.json#/protocol/sample_seed"),
    ("sampler", "evaluate/metrics.json#/protocol/sampling/sampler"),
    ("sampling steps", "evaluate/metrics.json#/protocol/sampling/num_steps"),
    ("guidance", "evaluate/metrics.json#/protocol/sampling/guidance"),
    ("features of", "evaluate/metrics.json#/protocol/extractor"),
    ("real images compared with", "evaluate/metrics.json#/protocol/reference_n"),
)
TRACE: Rows = (
    ("commit of the code", "sample/bundle/lineage.json#/code_commit"),
    ("tree differed from the commit", "sample/bundle/lineage.json#/is_dirty"),
    ("data", "sample/bundle/lineage.json#/data_digest"),
    ("sha256 of params.yaml", "sample/bundle/lineage.json#/params_sha256"),
    ("sha256 of requirements.lock", "sample/bundle/lineage.json#/requirements_sha256"),
    ("sha256 of dvc.lock", "sample/bundle/lineage.json#/dvc_lock_sha256"),
    ("seed", "sample/bundle/lineage.json#/seed"),
    ("sha256 of the weights", "sample/bundle/lineage.json#/weights_sha256"),
    ("not exact to the bit because of", "sample/bundle/lineage.json#/not_bit_exact"),
)
FRONT = """\
---
library_name: diffusers
license: apache-2.0
tags: [diffusion, image-generation, vivero, synthetic-content]
---
"""
PURPOSE = """\
Intended for research, teaching and tests of image generation. It makes images of the kind of its
training data and of nothing else.

Out of scope: anything where an image is taken for evidence or for a photograph, decisions about
people, training other models without saying that the data are synthetic, and uses that the
licence of the data forbids. It is not a high-risk system by itself; who builds one with it has the
duties of that system's provider."""
DATA_PROSE = """\
Every image was decoded and held to a data contract before training; what failed lies in quarantine
with its reason. Images were resized to fit and padded to a square, and split by their content, so
that no image stands in two splits. Whether persons can be recognised in the images, and whether
consent was asked for, no record says."""
TRAINING_PROSE = """\
Energy is that of training alone, all starts of it, without the stages before and after it and
without cooling."""
QUALITY_PROSE = """\
Each figure with its 95 % interval and its n; the floor is the same figure between two disjoint
sets of real images. A Fréchet distance in another network's features than Inception's is not FID.
Each row is `evaluate/metrics.json#/metrics/FIGURE`."""
LIMITS_PROSE = """\
It repeats the gaps and biases of its data. It has no filter of what it makes, because it can make
only what its data show; for other data that must be judged anew. A sample counts as copied when
one training image, or a group of near-equal ones, is far nearer to it than all others, or as near
as near-equal images are; a small share does not prove that nothing was memorised. Attacks on
privacy, fairness between groups, and safety of content were not measured."""
MARKING = """\
Its images are synthetic: say so when you show them (Article 50 of Regulation (EU) 2024/1689).
`vivero sample` writes into each PNG, in a text chunk named vivero that machines can read, what
made it, and records the sha256 of its pixels, so that an image that lost its text is still found.
A change of pixels, such as by a JPEG, ends that; no invisible watermark is put into the pixels."""
TRACE_PROSE = """\
`vivero lineage` leads from an image, a version, a commit or the data to all the others.
`git checkout COMMIT && dvc repro` makes it again."""
VERSIONS = """\
`vivero models` lists the versions and what the gates said of each, `vivero models history` who
promoted which and why: that may change after this card was signed, so it does not stand here. The
files of a version are signed, and refused when one of them was altered. Questions, complaints and
reports of misuse go to the contact named above; where it is unknown, to who gave you the model."""


def version_card(records: Mapping[str, Any]) -> str:
    """The card as Markdown.

    Args:
        records: By their path below artifacts/ (data/card.json and params.yaml by their own), the
            values of each record; of train/journal.jsonl the run's own entry. One that is missing
            leaves its facts unknown.
    """
    name = value_at(records, "params.yaml#/register/model_name")
    metrics = value_at(records, "evaluate/metrics.json#/metrics") or {}
    copies = {key: m for key, m in metrics.items() if key.startswith(ABOUT_COPIES)}
    figures = {key: m for key, m in metrics.items() if key not in copies}
    parts = [
        f"{FRONT}\n# {code(name or UNKNOWN)}",
        _section(records, Section("What it is, and who made it", "", IDENTITY)),
        _section(records, Section("Intended use, and uses out of scope", PURPOSE)),
        _section(records, Section("How good it is", QUALITY_PROSE)),
        _figures(figures),
        _rows(records, PROTOCOL),
        _section(records, Section("Known limits, memorisation and safety", LIMITS_PROSE)),
        _figures(copies),
        _section(records, Section("Training data", DATA_PROSE, DATA)),
        _section(records, Section("How it was trained", TRAINING_PROSE, TRAINING)),
        _section(records, Section("Marking of synthetic content", MARKING)),
        _section(records, Section("How to trace and reproduce it", TRACE_PROSE, TRACE)),
        _section(records, Section("Versions and contact", VERSIONS)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def shown(value: Any) -> str:
    """A recorded value as the card says it: whole numbers in full, others in four digits."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value) or NONE
    return f"`{code(str(value))}`"


def _section(records: Mapping[str, Any], section: Section) -> str:
    parts = [f"## {section.title}", section.prose, _rows(records, section.rows)]
    return "\n\n".join(part for part in parts if part)


def _rows(records: Mapping[str, Any], rows: Rows) -> str:
    if not rows:
        return ""
    lines = [f"| {what} | {_cell(records, place)} | `{place}` |" for what, place in rows]
    return "\n".join(["| what | value | recorded in |", "| --- | --- | --- |", *lines])


def _cell(records: Mapping[str, Any], place: str) -> str:
    """What is recorded there; "none" for what a record names only where there is some."""
    file = place.partition("#/")[0]
    value = value_at(records, place)
    return NONE if value is None and place in ONLY_IF_ANY and file in records else shown(value)


def _figures(metrics: Mapping[str, Any]) -> str:
    if not metrics:
        return "None was computed."
    lines = [
        f"| {code(key)} | {_digits(m.get('value'))} | {_digits(m.get('low'))} to "
        f"{_digits(m.get('high'))} | {_digits(m.get('floor'))} | {m.get('n', '')} "
        f"| {better_of(key)} |"
        for key, m in metrics.items()
    ]
    head = ["| figure | value | interval | floor | n | better |", "| --- " * 6 + "|"]
    return "\n".join([*head, *lines])


def _digits(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}"


def value_at(records: Mapping[str, Any], place: str) -> Any:
    """What is recorded at FILE#/KEY/KEY; None where nothing is."""
    file, _, pointer = place.partition("#/")
    value = records.get(file)
    for key in pointer.split("/"):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
