"""Model versions: one per weights, whole, found again, and checked when they are brought here."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch

from tests.mlflow_stores import BrokenClient
from tests.model_versions import make_artifacts, report, write_verdict
from vivero.config.schema import Config
from vivero.diffusion.generation import GenerationSpec, generate
from vivero.errors import BundleError, TrackingError
from vivero.files import read_json, write_json
from vivero.registry.bundle import Identity, load_bundle
from vivero.registry.registration import Candidate, _shortened, register_version
from vivero.registry.versions import (
    SAMPLING_TAG,
    SIGNATURE_TAG,
    WEIGHTS_TAG,
    bring_here,
    champion_drift_reference,
    download,
    find_version,
    identity_of,
    list_versions,
    report_folder,
    resolve_model,
)
from vivero.tracking.mirror import reconcile
from vivero.tracking.store import open_client

NAME = "vivero"


def report_on(root: Path, protocol: str | None = None) -> dict[str, Any]:
    """What version 1 is judged by: under this protocol where there is a report, else its own."""
    version = find_version(root, f"models:/{NAME}/1")
    folder = report_folder(root, version, protocol)
    return {} if folder is None else dict(read_json(folder / "metrics.json"))


def candidate_of(root: Path, config: Config, seed: int = 0, **changes: Any) -> Candidate:
    make_artifacts(root, config, seed)
    artifacts = root / "artifacts"
    ids = reconcile(root, artifacts / "train" / "journal.jsonl")
    card_path = artifacts / "register" / "MODEL_CARD.md"
    card_path.parent.mkdir(parents=True, exist_ok=True)
    card_path.write_text("# A model\n")
    write_verdict(root, config)
    fields: dict[str, Any] = {
        "bundle_dir": artifacts / "sample" / "bundle",
        "metrics_path": artifacts / "evaluate" / "metrics.json",
        "drift_reference_path": artifacts / "compute_reference" / "reference/drift.safetensors",
        "verdict_path": artifacts / "judge" / "verdict.json",
        "card_path": card_path,
        "run_id": str(ids.run_id),
        "model_id": ids.model_id,
    }
    return Candidate(**{**fields, **changes})


def with_report(candidate: Candidate, config: Config, made: dict[str, Any]) -> Candidate:
    """The same candidate after another evaluation, and judged by it."""
    write_json(candidate.metrics_path, made)
    write_verdict(candidate.verdict_path.parents[2], config)
    return candidate


def test_the_same_weights_make_one_version(root: Path, tiny_config: Config):
    candidate = candidate_of(root, tiny_config)
    version, is_new = register_version(root, NAME, candidate)
    again, is_new_again = register_version(root, NAME, candidate)
    assert (is_new, is_new_again) == (True, False)
    assert version == again
    assert len(list_versions(root, NAME)) == 1

    client = open_client(root)
    model = client.get_logged_model(candidate.model_id)
    assert str(model.status) == "READY"
    assert version.source == f"models:/{candidate.model_id}", (
        "the model that the training announced"
    )
    figures = {metric.key: metric.value for metric in model.metrics}
    assert figures == {name: m["value"] for name, m in report()["metrics"].items()}
    assert client.get_model_version(NAME, version.version).description == "# A model\n"
    assert version.tags["vivero.lineage.data_digest"] == f"{'d' * 32}.dir"


def test_a_version_comes_back_as_it_went_in(embedded: Path, tiny_config: Config):
    root = embedded
    version, _ = register_version(root, NAME, candidate_of(root, tiny_config))
    folder = bring_here(root, version)
    original = load_bundle(root / "artifacts" / "sample" / "bundle")
    assert load_bundle(folder / "bundle").weights_sha256 == original.weights_sha256
    assert read_json(folder / "metrics.json") == report()
    assert (folder / "drift.safetensors").read_bytes() == b"features"
    names = [path.name for path in (root / "mlartifacts").rglob("*") if path.is_file()]
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".bin"))]


def test_mlflow_itself_makes_the_same_images(root: Path, tiny_config: Config):
    register_version(root, NAME, candidate_of(root, tiny_config))
    table = pd.DataFrame({"label": [0, 2], "index": [5, 6]})
    images = mlflow.pyfunc.load_model(f"models:/{NAME}/1").predict(table, params={"seed": 3})

    bundle = load_bundle(root / "artifacts" / "sample" / "bundle")
    defaults = bundle.sampling_defaults
    spec = GenerationSpec(
        seed=3,
        sampler=defaults["sampler"],
        num_steps=defaults["num_steps"],
        guidance=defaults["guidance"],
        guidance_interval=tuple(defaults["guidance_interval"]),
        batch_images=2,
    )
    labels = torch.tensor([0, 2])
    made = generate(bundle.denoiser, bundle.schedule, spec, labels, [5, 6], bundle.image_shape)
    assert (images == torch.cat(list(made)).numpy()).all()


def test_other_weights_of_the_same_run_leave_the_first_ones_alone(root: Path, tiny_config: Config):
    first = candidate_of(root, tiny_config, seed=0)
    register_version(root, NAME, first)
    second = candidate_of(root, tiny_config, seed=1, run_id=first.run_id, model_id=first.model_id)
    version, is_new = register_version(root, NAME, second)

    assert is_new
    assert version.version == "2"
    for item in list_versions(root, NAME):
        bring_here(root, item)  # raises when the weights are not the registered ones


@pytest.mark.parametrize(
    ("has_effect", "step"),
    [
        (True, 6),
        pytest.param(True, 1, marks=pytest.mark.slow),
        pytest.param(False, 1, marks=pytest.mark.slow),
    ],
)
def test_breaking_off_at_any_call_ends_in_one_whole_version(
    root: Path, tiny_config: Config, has_effect: bool, step: int, monkeypatch: pytest.MonkeyPatch
):
    client = open_client(root)
    for fails_at in range(1, 40, step):
        name = f"model-{fails_at}"
        candidate = candidate_of(root, tiny_config, seed=fails_at)
        broken = BrokenClient(client, fails_at, has_effect)
        with monkeypatch.context() as patch:
            for module in ("registration", "versions"):
                patch.setattr(f"vivero.registry.{module}.open_client", lambda _, b=broken: b)
            try:
                register_version(root, name, candidate)
            except TrackingError:
                pass
            else:
                break
        register_version(root, name, candidate)
        (version,) = list_versions(root, name)
        bring_here(root, version)
    assert 5 < fails_at < 40 - step, "the fault never fired, or always"


def test_altered_files_in_the_store_are_refused(embedded: Path, tiny_config: Config):
    root = embedded
    version, _ = register_version(root, NAME, candidate_of(root, tiny_config))
    (weights_path,) = (root / "mlartifacts").rglob("diffusion_pytorch_model.safetensors")
    content = bytearray(weights_path.read_bytes())
    content[-1] ^= 1
    weights_path.write_bytes(content)
    with pytest.raises(BundleError, match=r"version 1 is refused.*unet/diffusion_.*safetensors"):
        download(root, version)


def test_registering_again_mends_what_was_altered_in_the_store(embedded: Path, tiny_config: Config):
    root = embedded
    candidate = candidate_of(root, tiny_config)
    version, _ = register_version(root, NAME, candidate)
    (path,) = (root / "mlartifacts").rglob("diffusion_pytorch_model.safetensors")
    path.write_bytes(b"")
    mended, is_new = register_version(root, NAME, candidate)
    assert not is_new
    assert mended.version == version.version
    download(root, mended)


def test_another_model_under_the_name_of_a_version_is_refused(root: Path, tiny_config: Config):
    version, _ = register_version(root, NAME, candidate_of(root, tiny_config))
    client = open_client(root)
    client.set_model_version_tag(NAME, version.version, "vivero.weights_sha256", "0" * 64)
    with pytest.raises(BundleError, match=r"asked for was 0000.*another version"):
        resolve_model(f"models:/{NAME}/1", root)


def test_a_damaged_local_copy_is_fetched_again(
    root: Path, tiny_config: Config, caplog: pytest.LogCaptureFixture
):
    version, _ = register_version(root, NAME, candidate_of(root, tiny_config))
    folder = bring_here(root, version)
    (folder / "bundle" / "MODEL_CARD.md").write_text("other")
    assert bring_here(root, version) == folder
    assert "altered: bundle/MODEL_CARD.md" in caplog.text
    assert (folder / "bundle" / "MODEL_CARD.md").read_text() == "# A model\n"


def test_a_report_under_a_new_protocol_is_kept_beside_the_first(root: Path, tiny_config: Config):
    candidate = candidate_of(root, tiny_config)
    version, _ = register_version(root, NAME, candidate)
    open_client(root).set_registered_model_alias(NAME, "champion", version.version)
    assert report_on(root, report(protocol="b")["protocol"]["hash"]) == {}

    newer = report(2.0, protocol="b")
    with_report(candidate, tiny_config, newer)
    register_version(root, NAME, candidate)
    register_version(root, NAME, candidate)
    assert report_on(root) == report()
    assert report_on(root, report(protocol="a")["protocol"]["hash"]) == report()
    assert report_on(root, report(protocol="b")["protocol"]["hash"]) == newer
    assert len(list_versions(root, NAME)) == 1


@pytest.mark.parametrize("protocol", ["a", "b"])
def test_a_report_with_other_bytes_under_a_known_protocol_is_replaced(
    root: Path, tiny_config: Config, protocol: str
):
    """Protocol a is that of the registration, b that of a report added later."""
    candidate = candidate_of(root, tiny_config)
    register_version(root, NAME, candidate)
    for distance in (4.0, 3.0):
        newer = report(distance, protocol)
        with_report(candidate, tiny_config, newer)
        register_version(root, NAME, candidate)
        assert report_on(root, newer["protocol"]["hash"]) == newer
    shutil.rmtree(root / "work" / "models")
    assert report_on(root, newer["protocol"]["hash"]) == newer
    assert report_on(root) == report()


def test_the_same_weights_with_another_sampler_are_another_version(
    root: Path, tiny_config: Config, config_factory: Callable[..., Config]
):
    first, _ = register_version(root, NAME, candidate_of(root, tiny_config))
    changed = config_factory({"sampling.num_steps": 2})
    second, is_new = register_version(root, NAME, candidate_of(root, changed))
    assert is_new
    assert second.version == "2"
    assert second.weights_sha256 == first.weights_sha256
    for version, num_steps in ((first, 3), (second, 2)):
        bundle = load_bundle(bring_here(root, version) / "bundle")
        assert bundle.sampling.num_steps == num_steps
    for config, expected in ((tiny_config, first), (changed, second)):
        found, is_new = register_version(root, NAME, candidate_of(root, config))
        assert (found.version, is_new) == (expected.version, False)


def test_a_version_of_before_sampling_had_a_tag_is_found_again(root: Path, tiny_config: Config):
    candidate = candidate_of(root, tiny_config)
    first, _ = register_version(root, NAME, candidate)
    open_client(root).delete_model_version_tag(NAME, "1", SAMPLING_TAG)
    older = find_version(root, f"models:/{NAME}/1")
    assert older.sampling_sha256 == ""
    assert identity_of(root, older) == Identity(first.weights_sha256, first.sampling_sha256)
    assert register_version(root, NAME, candidate)[1] is False


def test_another_sampler_than_the_registered_one_is_refused(root: Path, tiny_config: Config):
    register_version(root, NAME, candidate_of(root, tiny_config))
    open_client(root).set_model_version_tag(NAME, "1", SAMPLING_TAG, "0" * 64)
    with pytest.raises(BundleError, match="settings of sampling have sha256"):
        resolve_model(f"models:/{NAME}/1", root)


def test_an_altered_report_is_refused(embedded: Path, tiny_config: Config):
    root = embedded
    version, _ = register_version(root, NAME, candidate_of(root, tiny_config))
    open_client(root).set_registered_model_alias(NAME, "champion", version.version)
    (path,) = (root / "mlartifacts").rglob("metrics.json")
    write_json(path, report(9.0))
    shutil.rmtree(root / "work" / "models")
    with pytest.raises(BundleError, match=r"version 1 is refused.*altered: metrics.json"):
        report_on(root, report(protocol="a")["protocol"]["hash"])


def test_an_altered_report_that_was_added_is_refused(embedded: Path, tiny_config: Config):
    root = embedded
    candidate = candidate_of(root, tiny_config)
    version, _ = register_version(root, NAME, candidate)
    open_client(root).set_registered_model_alias(NAME, "champion", version.version)
    with_report(candidate, tiny_config, report(2.0, protocol="b"))
    register_version(root, NAME, candidate)
    (path,) = (root / "mlartifacts").rglob("reports/*/metrics.json")
    write_json(path, report(1.0, protocol="b"))
    with pytest.raises(BundleError, match=r"a report on vivero version 1 .*altered: metrics.json"):
        report_on(root, report(protocol="b")["protocol"]["hash"])


def test_an_unsigned_version_is_refused_until_it_is_registered_again(
    root: Path, tiny_config: Config
):
    candidate = candidate_of(root, tiny_config)
    version, _ = register_version(root, NAME, candidate)
    open_client(root).delete_model_version_tag(NAME, version.version, SIGNATURE_TAG)
    with pytest.raises(BundleError, match=r"version 1 is not signed.*vivero register"):
        resolve_model(f"models:/{NAME}/1", root)
    register_version(root, NAME, candidate)
    assert resolve_model(f"models:/{NAME}/1", root).is_dir()


@pytest.mark.parametrize(
    ("model", "error", "said"),
    [
        (
            "models:/vivero@champion",
            TrackingError,
            r"no alias 'champion' \(there are: none\).*vivero run",
        ),
        ("models:/vivero/7", TrackingError, r"no version 7 \(there are: 1\)"),
        ("models:/nobody/1", TrackingError, r"no version 1 \(there are: none\)"),
        ("models:/vivero", TrackingError, "write models:/NAME@champion"),
        ("models:/../x@y", TrackingError, "no model|is no model|has no alias"),
        ("nowhere", BundleError, "neither a bundle folder nor models:/"),
    ],
)
def test_what_is_not_there_says_what_is(
    root: Path, tiny_config: Config, model: str, error: type[Exception], said: str
):
    register_version(root, NAME, candidate_of(root, tiny_config))
    with pytest.raises(error, match=said):
        resolve_model(model, root)


def test_a_folder_needs_no_registry(root: Path, tiny_config: Config):
    make_artifacts(root, tiny_config)
    folder = root / "artifacts" / "sample" / "bundle"
    assert resolve_model(str(folder), None) == folder
    with pytest.raises(BundleError, match="needs a clone of the repository"):
        resolve_model("models:/vivero@champion", None)


def test_without_a_champion_there_is_no_reference(root: Path, tiny_config: Config):
    version, _ = register_version(root, NAME, candidate_of(root, tiny_config))
    assert champion_drift_reference(root, NAME) is None
    open_client(root).set_registered_model_alias(NAME, "champion", version.version)
    assert report_on(root) == report()
    reference = champion_drift_reference(root, NAME)
    assert reference is not None
    assert reference.read_bytes() == b"features"
    assert find_version(root, "models:/vivero@champion").version == version.version


def test_a_long_card_is_cut_at_a_line():
    card = "".join(f"line {number}\n" for number in range(2000))
    short = _shortened(card)
    assert len(short) <= 5000
    assert short.endswith("(the whole card is MODEL_CARD.md among the model's files)")
    assert _shortened("short") == "short"
    assert _shortened("---\nlicense: apache-2.0\n---\n\n# A model\n") == "# A model\n"


def test_an_unreachable_server_is_said_quickly(root: Path, tiny_config: Config, monkeypatch):
    candidate = candidate_of(root, tiny_config)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:geheim@127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"does not answer\. Start it") as caught:
        register_version(root, NAME, candidate)
    assert "geheim" not in str(caught.value)


def test_of_two_that_registered_at_once_the_first_stays(root: Path, tiny_config: Config):
    candidate = candidate_of(root, tiny_config)
    version, _ = register_version(root, NAME, candidate)
    client = open_client(root)
    tags = {WEIGHTS_TAG: version.weights_sha256, SAMPLING_TAG: version.sampling_sha256}
    model_id = version.source.removeprefix("models:/")
    client.create_model_version(NAME, source=version.source, tags=tags, model_id=model_id)
    assert len(list_versions(root, NAME)) == 2
    again, is_new = register_version(root, NAME, candidate)
    assert (again.version, is_new) == ("1", False)
    assert [item.version for item in list_versions(root, NAME)] == ["1"]
