"""A registered version: whatever is changed of its files, it is refused before it is loaded.

Everything goes through `versions.bring_here` and MLflow's own loader, on a real store.
"""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from tests.mlflow_stores import empty_store
from tests.model_versions import report
from tests.unit.registry.test_registration import NAME, candidate_of, with_report
from vivero.config.schema import Config
from vivero.errors import BundleError
from vivero.files import read_json, sha256_of_dir, sha256_of_file, write_json
from vivero.registry.bundle import load_bundle
from vivero.registry.keys import SigningKey, _make_key, signing_key
from vivero.registry.registration import register_version
from vivero.registry.signatures import (
    RECORD_NAME,
    SIGNATURE_NAME,
    new_record,
    sign_folder,
)
from vivero.registry.versions import (
    SIGNATURE_TAG,
    WEIGHTS_TAG,
    ModelVersion,
    bring_here,
    list_versions,
    report_folder,
    report_tag,
)


class Registered:
    """Two signed versions in an embedded store; their files there can be altered and restored."""

    def __init__(self, root: Path, config: Config) -> None:
        self.root = root
        for seed in (1, 2):
            register_version(root, NAME, candidate_of(root, config, seed))
        candidate = candidate_of(root, config, 2)
        with_report(candidate, config, report(2.0, protocol="b"))
        register_version(root, NAME, candidate)
        self.older, self.version = list_versions(root, NAME)
        self.stored, self.stored_older = (
            self._stored_files(version) for version in (self.version, self.older)
        )
        self.pristine = root / "pristine"
        shutil.copytree(self.stored, self.pristine)
        self.sha256 = sha256_of_dir(self.pristine)

    def _stored_files(self, version: ModelVersion) -> Path:
        (path,) = (self.root / "mlartifacts").rglob(f"{version.model_id}/artifacts/artifacts")
        return path

    def restore(self) -> None:
        shutil.rmtree(self.stored)
        shutil.copytree(self.pristine, self.stored)
        shutil.rmtree(self.root / "work" / "models", ignore_errors=True)

    def files(self) -> list[Path]:
        """Of the version itself, without reports that were added later."""
        names = sorted(path for path in self.stored.rglob("*") if path.is_file())
        return [path for path in names if "reports" not in path.relative_to(self.stored).parts]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> Registered:
    root = tmp_path_factory.mktemp("verified")
    (root / "mlflow.db").write_bytes(empty_store())
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return Registered(root, tiny_config)


@pytest.fixture
def registered(made: Registered, monkeypatch: pytest.MonkeyPatch) -> Registered:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made.restore()
    return made


def any_file(store: Registered, rng: random.Random) -> Path:
    return rng.choice(store.files())


def flip(store: Registered, rng: random.Random) -> str:
    path = any_file(store, rng)
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return path.name


def remove(store: Registered, rng: random.Random) -> str:
    path = any_file(store, rng)
    path.unlink()
    return path.name


def add(store: Registered, rng: random.Random) -> str:
    name = rng.choice([".gitignore", ".git/config", "bundle/extra.py", "unet/x", "model.sig2"])
    path = store.stored / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(rng.randbytes(5))
    return path.name


def rename(store: Registered, rng: random.Random) -> str:
    path = any_file(store, rng)
    path.rename(path.with_name("renamed"))
    return path.name


def truncate(store: Registered, rng: random.Random) -> str:
    path = any_file(store, rng)
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
    return path.name


def swap(store: Registered, rng: random.Random) -> str:
    first, second = rng.sample(
        [path for path in store.files() if path.name not in (RECORD_NAME, SIGNATURE_NAME)], 2
    )
    content = first.read_bytes()
    if content == second.read_bytes():
        return flip(store, rng)
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    return first.name


def take_older_signature(store: Registered, rng: random.Random) -> str:
    del rng
    shutil.copyfile(store.stored_older / SIGNATURE_NAME, store.stored / SIGNATURE_NAME)
    return SIGNATURE_NAME


def replace_weights(store: Registered, rng: random.Random) -> str:
    """Another model with a manifest of its own, which the bundle's own check lets pass."""
    del rng
    shutil.rmtree(store.stored / "bundle")
    shutil.copytree(store.stored_older / "bundle", store.stored / "bundle")
    return "diffusion_pytorch_model.safetensors"


CHANGES: list[Callable[[Registered, random.Random], str]] = [
    flip, flip, remove, add, rename, truncate, swap, take_older_signature, replace_weights,
]  # fmt: skip


@pytest.mark.parametrize("num_mutations", [36, pytest.param(500, marks=pytest.mark.slow)])
def test_every_change_in_the_store_is_refused_and_named(registered: Registered, num_mutations: int):
    rng, refused = random.Random(7), 0
    for number in range(num_mutations):
        registered.restore()
        changed = CHANGES[number % len(CHANGES)](registered, rng)
        with pytest.raises(BundleError) as caught:
            bring_here(registered.root, registered.version)
        assert changed in str(caught.value), (number, changed, str(caught.value))
        kept = [p for p in (registered.root / "work" / "models").iterdir() if p.name[0] != "."]
        assert kept == [], "nothing that was refused is left where it could be loaded"
        refused += 1
    assert refused == num_mutations


@pytest.mark.parametrize("num_mutations", [9, pytest.param(200, marks=pytest.mark.slow)])
def test_a_change_of_the_local_copy_is_noticed_each_time(
    registered: Registered, num_mutations: int
):
    """A good store heals it; nothing that was altered is given away."""
    rng = random.Random(8)
    folder = bring_here(registered.root, registered.version)
    for number in range(num_mutations):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        path = rng.choice([file for file in files if "reports" not in file.parts])
        if number % 3 == 0:
            path.write_bytes(path.read_bytes() + b" ")
        elif number % 3 == 1:
            elsewhere = registered.root / "elsewhere"
            elsewhere.write_bytes(path.read_bytes())
            path.unlink()
            path.symlink_to(elsewhere)
        else:
            (folder / "bundle" / "extra.py").write_text("")
        assert bring_here(registered.root, registered.version) == folder
        assert sha256_of_dir(folder) == registered.sha256
        assert not [file for file in folder.rglob("*") if file.is_symlink()]


def resigned(store: Registered, key: SigningKey) -> str:
    """Alter the report and sign all of it again, with a true record; hash of the signature."""
    for name in (RECORD_NAME, SIGNATURE_NAME):
        (store.stored / name).unlink()
    write_json(store.stored / "metrics.json", report(0.1))
    version = store.version
    record = new_record(version.name, version.version, version.weights_sha256)
    return sign_folder(store.stored, record, key)


def test_a_trusted_signature_that_was_not_registered_is_refused(registered: Registered):
    resigned(registered, signing_key(registered.root))
    with pytest.raises(BundleError, match=r"model\.sig is not the signature that was registered"):
        bring_here(registered.root, registered.version)


def test_a_registered_signature_that_nobody_trusts_is_refused(
    registered: Registered, tmp_path: Path
):
    sha256 = resigned(registered, SigningKey(_make_key(tmp_path / "stranger" / "key.pem"), None))
    version = tagged(registered.version, SIGNATURE_TAG, sha256)
    with pytest.raises(BundleError, match="nobody trusts"):
        bring_here(registered.root, version)


def tagged(version: ModelVersion, tag: str, value: str) -> ModelVersion:
    return replace(version, tags={**version.tags, tag: value})


def test_an_older_version_under_a_newer_number_is_refused(registered: Registered):
    shutil.rmtree(registered.stored)
    shutil.copytree(registered.stored_older, registered.stored)
    sha256 = sha256_of_file(registered.stored / SIGNATURE_NAME)
    version = tagged(registered.version, SIGNATURE_TAG, sha256)
    with pytest.raises(BundleError, match="signed for version 1, asked for was 2"):
        bring_here(registered.root, version)
    with pytest.raises(BundleError, match="signed for version 1, asked for was 2"):
        bring_here(registered.root, tagged(version, WEIGHTS_TAG, registered.older.weights_sha256))


def test_other_weights_under_the_registered_ones_are_refused(registered: Registered):
    version = tagged(registered.version, WEIGHTS_TAG, "0" * 64)
    with pytest.raises(BundleError, match="signed for weights_sha256"):
        bring_here(registered.root, version)


def test_weights_that_are_not_those_of_the_record_are_refused(registered: Registered):
    """All is signed by a trusted key and registered, but the record names other weights."""
    shutil.rmtree(registered.stored / "bundle")
    shutil.copytree(registered.stored_older / "bundle", registered.stored / "bundle")
    sha256 = resigned(registered, signing_key(registered.root))
    with pytest.raises(BundleError, match="the weights have sha256"):
        bring_here(registered.root, tagged(registered.version, SIGNATURE_TAG, sha256))


def test_an_added_report_is_held_to_the_signature_that_was_registered(registered: Registered):
    protocol = str(report(protocol="b")["protocol"]["hash"])
    folder = report_folder(registered.root, registered.version, protocol)
    assert read_json(folder / "metrics.json") == report(2.0, protocol="b")
    registered.restore()
    place = registered.stored / "reports" / protocol[:12]
    for name in (RECORD_NAME, SIGNATURE_NAME):
        (place / name).unlink()
    write_json(place / "metrics.json", report(0.1, protocol="b"))
    version = registered.version
    record = new_record(version.name, version.version, version.weights_sha256, protocol)
    sha256 = sign_folder(place, record, signing_key(registered.root))
    with pytest.raises(BundleError, match=r"is not the signature that was registered"):
        report_folder(registered.root, version, protocol)
    shutil.rmtree(registered.root / "work" / "models")
    other = new_record(version.name, version.version, version.weights_sha256, "c" * 64)
    sha256 = sign_folder(place, other, signing_key(registered.root))
    with pytest.raises(BundleError, match=r"signed for protocol_hash cccc"):
        report_folder(registered.root, tagged(version, report_tag(protocol), sha256), protocol)


def served(registered: Registered) -> object:
    return mlflow.pyfunc.load_model(f"models:/{NAME}/{registered.version.version}")


def test_the_served_model_verifies_its_signature(registered: Registered):
    assert served(registered)
    replace_weights(registered, random.Random(0))
    load_bundle(registered.stored / "bundle")  # its own manifest fits
    with pytest.raises(BundleError, match=r"not those that were signed.*altered: bundle/"):
        served(registered)


def test_the_served_model_without_a_signature_is_refused(registered: Registered):
    (registered.stored / SIGNATURE_NAME).unlink()
    with pytest.raises(BundleError, match="not signed"):
        served(registered)


def test_the_served_model_of_a_stranger_is_refused(registered: Registered, tmp_path: Path):
    resigned(registered, SigningKey(_make_key(tmp_path / "stranger" / "key.pem"), None))
    with pytest.raises(BundleError, match="nobody trusts"):
        served(registered)
