"""One step: parts of a batch, less memory and half precision change roundings at most."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.training.tiny_run import TinyRun, hash_of, tiny_run, tiny_train_config
from vivero.diffusion.preconditioning import Denoiser
from vivero.errors import ConfigError, ViveroError
from vivero.models.build import build_model
from vivero.models.tree import TreeNetwork
from vivero.training.batches import Batch
from vivero.training.curves import metric_rows
from vivero.training.distributed import Workers, alone
from vivero.training.step import memory_advice, mixed, train_step

# Adam moves a weight by about the learning rate (.01) in each of the 12 steps, so by .12 at most.
# Sums in another order are rounded in another way, and Adam divides by small gradients: half of
# float32's 24 bits of that distance must agree. Measured: 2.5e-6, and 1.1e-5 on another processor.
MAX_DIFFERENCE = 12 * 0.01 * 2**-12


def weights_of(run: TinyRun) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in run.state.model.named_parameters()}


def largest_difference(one: TinyRun, other: TinyRun) -> float:
    ours, theirs = weights_of(one), weights_of(other)
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return tiny_run(tmp_path_factory.mktemp("whole")).go()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return tiny_run(tmp_path_factory.mktemp("tree"), network="tree").go()


@pytest.fixture(params=["whole", "tree"])
def either(request: pytest.FixtureRequest) -> TinyRun:
    return request.getfixturevalue(request.param)


def like(run: TinyRun, folder: Path, **changes: object) -> TinyRun:
    """A run of the same network."""
    return tiny_run(folder, network=run.rig.config.model.name, **changes)


@pytest.mark.parametrize("num_micro_batches", [2, 4, 8])
def test_micro_batches_give_the_update_of_the_whole_batch(either, tmp_path, num_micro_batches):
    parts = like(either, tmp_path, num_micro_batches=num_micro_batches).go()
    assert largest_difference(either, parts) < MAX_DIFFERENCE


def test_micro_batches_of_a_tree_see_the_window_of_the_whole_batch(tmp_path: Path):
    changes = {"network": "tree", "tree": {"fine_crop_share": 0.5}}
    cut = tiny_run(tmp_path / "cut", **changes).go()
    parts = tiny_run(tmp_path / "parts", **changes, num_micro_batches=4).go()
    assert largest_difference(cut, parts) < MAX_DIFFERENCE


def test_images_enter_a_tree_at_every_level_and_not_in_every_part(tree: TinyRun):
    levels = [tree.rig.batches.at(begin).routing.levels.tolist() for begin in range(0, 96, 8)]
    assert {level for of_batch in levels for level in of_batch} == {0, 1}
    assert any(set(of_batch[:4]) == {1} or set(of_batch[4:]) == {1} for of_batch in levels)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {"detail_weight": 0.0}},  # nothing asks how far foreseen details are off
        {"tree": {"threshold": None}},  # nothing enters at the coarser branch
    ],
)
def test_weights_that_no_loss_asks_for_are_saved_and_restored(tmp_path: Path, changes):
    whole = tiny_run(tmp_path / "whole", network="tree", **changes).go()
    idle = whole.state.model.finest.child.log_residual
    assert whole.state.optimizer.state[idle]["step"] == 0
    tiny_run(tmp_path / "torn", network="tree", **changes).go()
    shutil.rmtree(tmp_path / "torn" / "checkpoints" / "0000000096")
    again = tiny_run(tmp_path / "torn", network="tree", **changes).go()
    assert again.state.resumed_from == [72]
    assert hash_of(again.state) == hash_of(whole.state)


def test_the_comparison_sees_a_part_that_is_taken_twice(whole, tmp_path, monkeypatch):
    parts_of = Batch.parts
    monkeypatch.setattr(Batch, "parts", lambda batch, num: [next(parts_of(batch, num))] * num)
    run = tiny_run(tmp_path, num_micro_batches=2).go()
    assert largest_difference(whole, run) > 100 * MAX_DIFFERENCE


def test_micro_batches_of_images_are_those_of_the_batch(whole: TinyRun):
    batch = whole.rig.batches.at(40)
    for num_parts in (1, 2, 4):
        parts = list(batch.parts(num_parts))
        assert len(parts) == num_parts
        assert torch.equal(torch.cat([part.clean for part in parts]), batch.clean)
        assert torch.equal(torch.cat([part.draw.noise for part in parts]), batch.draw.noise)


def test_gradient_checkpointing_gives_the_same_bits(either: TinyRun, tmp_path: Path):
    run = like(either, tmp_path, gradient_checkpointing=True)
    calls, model = [], run.state.model
    is_tree = isinstance(model, TreeNetwork)
    block = model.finest.child.encoder[0] if is_tree else model.encoder[0][0]
    block.register_forward_pre_hook(lambda *_: calls.append(1))
    train_step(run.state, run.rig)
    assert len(calls) == 2, "the block was not computed again"
    assert hash_of(run.go().state) == hash_of(either.state)


@pytest.mark.parametrize(
    "changes", [{"gradient_clipping": "adaptive"}, {"max_gradient_norm": 0.01}]
)
def test_clipping_changes_what_is_learned(whole: TinyRun, tmp_path: Path, changes):
    free = tiny_run(tmp_path / "free", gradient_clipping="none").go()
    assert hash_of(free.state) == hash_of(whole.state), "no gradient here is larger than 1"
    assert hash_of(tiny_run(tmp_path / "clipped", **changes).go().state) != hash_of(free.state)


def losses_of(run: TinyRun) -> list[float]:
    return [row["loss"] for row in metric_rows(run.outlets.tracker.journal.entries(), "train/")]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_with_weights_in_float32(either, tmp_path: Path, precision: str):
    run = like(either, tmp_path, precision=precision).go()
    assert all(weight.dtype == torch.float32 for weight in run.state.model.parameters())
    np.testing.assert_allclose(losses_of(run), losses_of(either), rtol=0.02)
    assert hash_of(run.state) != hash_of(either.state)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_runs_the_network_in_half(precision: str):
    layer, seen = nn.Linear(2, 2), []
    layer.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    network = mixed(lambda scaled, *_: layer(scaled), torch.device("cpu"), precision)
    denoise = Denoiser(
        lambda scaled, *rest: network(scaled.flatten(1), *rest).reshape(scaled.shape),
        *("clean", 0.5, 2),
    )
    output = denoise(torch.ones(1, 2, 1, 1), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    assert seen == [{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]]
    assert output.dtype == torch.float32


def overflow_at(run: TinyRun, begin: int) -> TinyRun:
    def overflow(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("inf") if run.state.images_seen == begin else gradient

    run.state.model.stem.weight.register_hook(overflow)
    return run


def test_an_overflow_of_fp16_skips_the_step_and_lowers_the_scale(tmp_path: Path):
    run = overflow_at(tiny_run(tmp_path, precision="fp16"), 8)
    scales, weights = [run.state.scaler.get_scale()], []
    for _ in range(3):
        train_step(run.state, run.rig)
        scales.append(run.state.scaler.get_scale())
        weights.append(run.state.model.stem.weight.detach().clone())
    assert scales == [65536, 65536, 32768, 32768]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    moments = run.state.optimizer.state[run.state.model.stem.weight]
    assert moments["step"] == 2
    assert bool(torch.isfinite(moments["exp_avg"]).all())


def test_the_scale_survives_a_resume_to_the_same_bits(tmp_path: Path):
    whole = overflow_at(tiny_run(tmp_path / "whole", precision="fp16"), 32).go()
    overflow_at(tiny_run(tmp_path / "torn", precision="fp16"), 32).go()
    for last in (tmp_path / "torn" / "checkpoints").glob("0000000096"):
        shutil.rmtree(last)
    again = tiny_run(tmp_path / "torn", precision="fp16").go()
    assert again.state.resumed_from == [72]
    assert again.state.scaler.get_scale() == 32768
    assert again.state.scaler.state_dict() == whole.state.scaler.state_dict()
    assert hash_of(again.state) == hash_of(whole.state)


def test_the_scale_is_reported(tmp_path: Path):
    run = overflow_at(tiny_run(tmp_path, precision="fp16"), 40).go()
    rows = metric_rows(run.outlets.tracker.journal.entries(), "train/")
    assert [row["loss_scale"] for row in rows] == [65536, 65536, 32768, 32768, 32768, 32768]


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "write train.num_micro_batches: 2 in params.yaml"),
        ({"num_micro_batches": 2}, "write train.num_micro_batches: 4 in params.yaml"),
        ({"num_processes": 4}, "write train.num_micro_batches: 2 in params.yaml"),
        ({"num_processes": 8}, "write train.gradient_checkpointing: true in params.yaml"),
        ({"num_micro_batches": 8}, "write train.gradient_checkpointing: true in params.yaml"),
        (
            {"num_micro_batches": 8, "gradient_checkpointing": True},
            "write a smaller train.batch_images or fewer train.model.channels",
        ),
    ],
)
def test_out_of_memory_says_what_to_change(error: Exception, changes, said: str):
    with (
        pytest.raises(ViveroError, match="ran out of memory") as caught,
        memory_advice(tiny_train_config(**changes)),
    ):
        raise error
    assert said in str(caught.value)
    assert "run the same command again" in str(caught.value)


def test_another_error_that_speaks_of_memory_is_left_alone():
    with (
        pytest.raises(RuntimeError, match="channels_last memory format"),
        memory_advice(tiny_train_config()),
    ):
        raise RuntimeError("expected channels_last memory format")


def test_the_advice_is_one_that_can_be_taken(tmp_path: Path):
    changes, seen = {}, []
    for _ in range(5):
        try:
            with memory_advice(tiny_train_config(**changes)):
                raise MemoryError
        except ViveroError as error:
            seen.append(str(error))
            if "num_micro_batches" in seen[-1]:
                changes["num_micro_batches"] = changes.get("num_micro_batches", 1) * 2
            else:
                changes["gradient_checkpointing"] = True
    assert changes == {"num_micro_batches": 8, "gradient_checkpointing": True}
    assert "smaller train.batch_images" in seen[-1]
    assert tiny_run(tmp_path, **changes).go().state.images_seen == 96


def test_sync_batch_norm_is_refused_on_a_cpu():
    config = tiny_train_config(sync_batch_norm=True)
    network = build_model(config.model, 1, 2, 16)
    with pytest.raises(
        ConfigError, match=r"works on GPUs only.*write train\.sync_batch_norm: false"
    ):
        alone(torch.device("cpu")).place(network, config)


def test_sync_batch_norm_replaces_what_it_can():
    elsewhere = Workers(0, 1, torch.device("meta"))  # any device but a CPU; nothing is computed
    for is_on, expected in ((True, nn.SyncBatchNorm), (False, nn.BatchNorm2d)):
        layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        placed = elsewhere.place(layers, tiny_train_config(sync_batch_norm=is_on))
        assert [type(layer) for layer in placed] == [nn.Conv2d, expected]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_network_trains_to_the_same_weights(either: TinyRun, tmp_path: Path):
    assert largest_difference(either, like(either, tmp_path, compile=True).go()) < 1e-4
