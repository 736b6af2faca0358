"""train.initial_model: a training that starts from a model instead of from nothing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model_versions import make_artifacts
from tests.prepared_images import write_prepared
from vivero.config.schema import Config
from vivero.errors import ConfigError, TrackingError
from vivero.registry.bundle import load_bundle
from vivero.stages import judge, register, trainer
from vivero.tracking.store import open_client
from vivero.training.distributed import alone
from vivero.training.inputs import TrainInputs, read_inputs
from vivero.training.loop import loss_of_average
from vivero.training.validation import validation_loss

CLASS_NAMES = ["shirt", "shoe", "bag"]  # as of tests.model_versions
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")
Factory = Callable[..., Config]


@pytest.fixture
def first_model(root: Path, tiny_config: Config) -> Path:
    """A bundle beside prepared images of its kind."""
    make_artifacts(root, tiny_config)
    (root / "artifacts/prepare_data/images/card.json").unlink()
    (root / "artifacts/prepare_data/images").rmdir()
    write_prepared(root, CLASS_NAMES)
    return (root / "artifacts/sample/bundle").rename(root / "first")


def inputs_of(config: Config, root: Path) -> TrainInputs:
    return read_inputs(config, root, trainer.initial_model(config.train, root))


def is_equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def test_starts_from_the_weights_of_a_bundle(root, first_model: Path, config_factory: Factory):
    config = config_factory({"train.initial_model": str(first_model)})
    inputs = inputs_of(config, root)
    state = trainer.new_state(inputs, alone())
    trainer.begin(state, inputs)
    rig = trainer.new_rig(state, inputs, alone())
    bank = trainer.new_bank(inputs, rig)

    bundle = load_bundle(first_model)
    assert is_equal(state.model.state_dict(), bundle.network.state_dict())
    for halflife in (16, 8):
        assert is_equal(state.average_state_dict(halflife), bundle.network.state_dict())
        own = loss_of_average(state, rig, bank, halflife)
        assert own == validation_loss(bundle.denoiser, rig.objective.weight, bank)
    assert state.images_seen == 0


def test_is_told_by_the_bundle_and_the_summary(root, first_model: Path, config_factory: Factory):
    config = config_factory({"train.initial_model": str(first_model)})
    trainer.run(config, root)
    made = load_bundle(root / "artifacts/train/bundle")
    assert made.lineage.initial_model == str(first_model)
    assert made.lineage.initial_weights_sha256 == load_bundle(first_model).weights_sha256
    assert made.weights_sha256 != load_bundle(first_model).weights_sha256
    assert load_bundle(first_model).lineage.initial_model is None


def test_other_weights_to_start_from_are_another_run(root, first_model, config_factory: Factory):
    one = inputs_of(config_factory({"train.initial_model": str(first_model)}), root)
    moved = first_model.rename(root / "moved")
    same = inputs_of(config_factory({"train.initial_model": str(moved)}), root)
    make_artifacts(root / "other", config_factory(), seed=1)
    other_dir = str(root / "other/artifacts/sample/bundle")
    other = inputs_of(config_factory({"train.initial_model": other_dir}), root)
    nothing = inputs_of(config_factory(), root)
    assert one.run_key == same.run_key
    assert len({one.run_key, other.run_key, nothing.run_key}) == 3


def test_starts_from_the_champion_of_the_registry(root: Path, tiny_config, config_factory):
    weights_sha256 = make_artifacts(root, tiny_config)
    judge.run(tiny_config, root)
    register.run(tiny_config, root)
    open_client(root).set_registered_model_alias("vivero", "champion", "1")
    config = config_factory({"train.initial_model": "models:/vivero@champion"})
    model = trainer.initial_model(config.train, root)
    assert model is not None
    assert model.weights_sha256 == weights_sha256
    bundle = load_bundle(root / "artifacts/sample/bundle")
    assert is_equal(model.weights, bundle.network.state_dict())


def test_without_a_champion_it_says_what_makes_one(root: Path, config_factory: Factory):
    config = config_factory({"train.initial_model": "models:/vivero@champion"})
    with pytest.raises(TrackingError, match="`vivero run` makes"):
        trainer.initial_model(config.train, root)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train.model.channels": [16, 16]}, "should have the shape"),
        ({"train.model.blocks_per_level": 2}, "tensors were expected"),
        ({"train.model.embedding_channels": 32}, "should have the shape"),
    ],
)
def test_a_model_of_another_shape_is_refused_before_any_training(
    root: Path, first_model: Path, config_factory: Factory, changes: dict[str, Any], said: str
):
    config = config_factory({"train.initial_model": str(first_model), **changes})
    with pytest.raises(ConfigError, match=r"initial_model does not fit train\.model") as caught:
        trainer.run(config, root)
    assert said in str(caught.value)
    assert "or null" in str(caught.value)
    assert not list(root.glob("work/checkpoints/*/journal.jsonl"))
    assert not (root / "artifacts/train/bundle").exists()
