"""The contest against the usual model: its order of runs, its conversion, its verdicts."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import our_model, usual_model
from bench.against_usual import (
    BESTS,
    DEFAULTS,
    OURS,
    OURS_QUARTER,
    judged,
    sentence,
    tables,
    targets,
)
from bench.contest import Clock, contest_environment, denoising_rows, mean_loss
from bench.our_model import SAMPLES, TrainingTime, fitted_settings
from bench.usual_model import (
    UsualDenoiser,
    UsualRun,
    built_unet,
    cropped,
    ddim_samples,
    ddpm_sigmas,
    fitted_rate,
    next_run,
    padded,
    train,
)
from vivero.config.load import load_config
from vivero.evaluation.denoising import NoiseBank
from vivero.integrity.caches import save_tensors

PARAMS_PATH = Path(__file__).parents[2] / "params.yaml"


def runs_until_the_end(losses: dict[str, float]) -> list[UsualRun]:
    """All runs, each getting the loss that is given for its name."""
    done: dict[str, float] = {}
    runs = []
    while run := next_run(done, 600.0):
        runs.append(run)
        done[run.name] = losses.get(run.name, 1.0)
    return runs


def test_the_search_decides_what_the_best_run_is():
    runs = {run.name: run for run in runs_until_the_end({"rate-0.001": 0.5, "batch-32": 0.4})}
    assert list(runs) == [
        *("default", "rate-0.0003", "rate-0.001", "rate-0.002", "batch-16", "batch-32"),
        *("best", "best-equal", "docs", "default-16"),
    ]
    assert runs["batch-16"].learning_rate == 0.001
    assert (runs["best"].learning_rate, runs["best"].batch_images) == (0.001, 32)
    assert runs["best"].seconds == 600.0 == 4 * runs["batch-32"].seconds
    assert (runs["docs"].size, runs["docs"].is_fitted) == ("docs", False)


def test_a_batch_size_that_does_not_help_is_not_taken():
    runs = {run.name: run for run in runs_until_the_end({"rate-0.002": 0.5})}
    assert (runs["best"].learning_rate, runs["best"].batch_images) == (0.002, 64)


def test_the_fitted_rate_rises_and_then_falls_to_nothing():
    assert fitted_rate(0.025) == pytest.approx(0.5)
    assert fitted_rate(0.05) == pytest.approx(1.0)
    assert fitted_rate(0.525) == pytest.approx(0.5)
    assert fitted_rate(1.01) == pytest.approx(0.0)


def test_padding_is_black_and_comes_off_again():
    images = torch.rand(2, 1, 28, 28)
    framed = padded(images)
    assert framed.shape == (2, 1, 32, 32)
    assert (framed[..., :2, :] == -1).all()
    assert torch.equal(cropped(framed), images)


class KnowsTheNoise(torch.nn.Module):
    """A network that answers with the noise of images that are black all over."""

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, labels: None) -> Any:
        sigma = ddpm_sigmas()[timesteps].view(-1, 1, 1, 1)
        noise = (noisy * (1 + sigma.square()).sqrt() + 1) / sigma
        return type("Output", (), {"sample": noise})


def test_who_knows_the_noise_denoises_without_error():
    sigmas = ddpm_sigmas()[[10, 500, 990]]
    clean, labels = torch.full((3, 1, 28, 28), -1.0), torch.zeros(3, dtype=torch.int64)
    noisy = clean + sigmas.view(-1, 1, 1, 1) * torch.randn(3, 1, 28, 28)
    denoised = UsualDenoiser(KnowsTheNoise(), False)(noisy, sigmas, labels)
    assert torch.allclose(denoised, clean, atol=1e-4)


def test_errors_are_counted_as_they_are_and_clipped():
    bank = NoiseBank(torch.ones(3, 1, 4, 4), torch.zeros(3).long(), torch.tensor([0.5, 2.0]), 0)
    config = load_config(PARAMS_PATH)
    rows = denoising_rows(lambda noisy, *_: torch.full_like(noisy, 3.0), bank, config)
    assert [row["mse"] for row in rows] == [4.0, 4.0]
    assert [row["mse_clipped"] for row in rows] == [0.0, 0.0]
    sigma_data = config.train.diffusion.sigma_data
    assert rows[1]["edm"] == pytest.approx(4 * (4 + sigma_data**2) / (2 * sigma_data) ** 2)
    assert mean_loss(rows) == 0.0


def test_a_clock_counts_processor_time_of_all_cores():
    clock = Clock(1.0)
    while clock.share < 0.02:
        math.sqrt(2.0)
    used = clock.used_for(100)
    assert used["cpu_s"] == pytest.approx(0.04, abs=0.02)
    assert used["images_per_s"] == pytest.approx(200 / used["cpu_s"])
    assert contest_environment()["OMP_NUM_THREADS"] == "2"


def use_the_processor(seconds: float) -> None:
    begin = time.process_time()
    while time.process_time() - begin < seconds:
        math.sqrt(2.0)


def test_our_clock_counts_all_batches_and_not_what_comes_before_and_after():
    spent = TrainingTime(batch_images=8, seconds=1.0)
    use_the_processor(0.2)
    for _ in range(3):
        for phase in ("batch", "average"):
            with spent(phase):
                use_the_processor(0.05)
    with spent("validate"):
        use_the_processor(0.2)
    assert 0.3 <= spent.used["cpu_s"] < 0.45


def test_their_clock_counts_all_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Six batches of 0.05 s use the 0.3 s of two cores; a clock that restarts would never end."""
    split = type("Split", (), {"images": np.zeros((20, 1, 28, 28), np.uint8)})
    split.labels = np.arange(20) % 10
    run, num_batches = UsualRun("short", "small", seconds=0.15, batch_images=2), 0

    def slow_error(model: torch.nn.Module, *_: object) -> torch.Tensor:
        nonlocal num_batches
        num_batches += 1
        assert num_batches <= 6, "the training goes on after its time"
        use_the_processor(0.05)
        return next(model.parameters()).sum()

    monkeypatch.setattr("bench.usual_model.images_of", lambda *_: split)
    monkeypatch.setattr("bench.usual_model.SIZES", {"small": (32, 32, 32, 32)})
    monkeypatch.setattr("bench.usual_model.noise_error", slow_error)
    _, used = train(run, built_unet(run), tmp_path)
    assert used["num_steps"] == num_batches
    assert used["cpu_s"] >= 0.3
    assert used["num_images"] == 2 * num_batches


def test_our_time_begins_with_the_first_batch_and_ends_with_the_last_average():
    spent = TrainingTime(batch_images=8, seconds=1.0)
    for phase in ("batch", "forward", "average", "batch", "average", "validate"):
        with spent(phase):
            pass
    assert (spent.used["num_steps"], spent.used["num_images"]) == (2, 16)


def test_a_run_of_another_length_keeps_the_shares_of_its_settings():
    config = load_config(PARAMS_PATH).train
    half = fitted_settings(config, config.total_images // 2)
    assert half.total_images == config.total_images // 2 == half.validate_every_images
    assert half.warmup_images == config.warmup_images // 2
    assert half.ema_halflives_images == [h // 2 for h in config.ema_halflives_images]


def test_a_run_trains_and_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    split = type("Split", (), {"images": np.zeros((20, 1, 28, 28), np.uint8)})
    split.labels = np.arange(20) % 10
    monkeypatch.setattr("bench.usual_model.images_of", lambda *_: split)
    monkeypatch.setattr("bench.usual_model.SIZES", {"small": (32, 32, 32, 32)})
    run = UsualRun("short", "small", seconds=0.01, batch_images=2, is_fitted=True)
    network = built_unet(run)
    averaged, used = train(run, network, tmp_path)
    assert used["num_steps"] * 2 == used["num_images"] > 0
    monkeypatch.setattr("bench.usual_model.NUM_SAMPLING_STEPS", 2)
    samples = ddim_samples(averaged, 2, True, is_clipped=True)
    assert (samples.shape, samples.dtype) == ((2, 1, 28, 28), np.uint8)


def test_theirs_are_judged_by_the_better_samples_and_ours_at_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def mean_brightness(samples: np.ndarray, _real: object, labels: object) -> dict[str, Any]:
        judges = {name: {"fd": float(samples.mean())} for name in ("strided", "pooled")}
        return {"n": len(samples), "judges": judges, "has_labels": labels is not None}

    monkeypatch.setattr("bench.against_usual.open_real_images", lambda *_: None)
    monkeypatch.setattr("bench.against_usual.judge_samples", mean_brightness)
    folder = usual_model.run_folder(tmp_path, "docs")
    folder.mkdir(parents=True)
    for kind, brightness in {"plain": 9, "clipped": 4}.items():
        images = torch.full((6, 1, 2, 2), brightness, dtype=torch.uint8)
        save_tensors(usual_model.samples_path(folder, kind), kind, {"images": images})
    for name in (OURS, OURS_QUARTER):
        images = torch.ones((10, 1, 2, 2), dtype=torch.uint8)
        save_tensors(our_model.run_folder(tmp_path, name) / SAMPLES, name, {"images": images})
    docs = {"run": {"is_fitted": False}, "samplings": {"plain": {}, "clipped": {}}}

    rows = judged({"docs": docs, OURS: {}, OURS_QUARTER: {}}, tmp_path)
    assert rows["docs"]["sampling"]["kind"] == "clipped"
    assert rows["docs"]["judges"]["6"]["judges"]["pooled"]["fd"] == 4
    assert not rows["docs"]["judges"]["6"]["has_labels"]
    assert rows[OURS]["judges"].keys() == {"6", "10"}


def report(distance: float, error: float, speed: float, num_images: int = 1000) -> dict[str, Any]:
    """What a run leaves, with all distances, errors and speeds alike."""
    judges = {name: {"fd": distance, "fd_floor": 1.0} for name in ("strided", "pooled")}
    counts = {str(n): {"judges": judges} for n in (256, 1000)}
    row = {"sigma": 0.5, "mse": error, "mse_clipped": error, "edm": error}
    used = {"num_images": num_images, "images_per_s": speed}
    return {
        "judges": counts,
        "test": [row],
        "test_loss": error,
        "used": used,
        "sampling": used,
        "num_parameters": 2_000_000,
    }


def contest(ours: dict[str, Any], quarter: dict[str, Any]) -> dict[str, dict[str, Any]]:
    theirs = {name: report(5.0, 0.3, 50.0) for name in DEFAULTS}
    theirs["docs"] = report(5.0, 0.3, 10.0, 256)
    bests = {name: report(1.0, 0.2, 60.0) for name in BESTS}
    return {**theirs, **bests, OURS: ours, OURS_QUARTER: quarter}


def test_every_target_can_be_met_and_every_one_can_be_missed():
    won = contest(report(0.4, 0.1, 700.0), report(0.9, 0.15, 700.0))
    found = targets(won)
    assert all(one["is_met"] for one in found)
    assert [one["factor"] for one in found[:2]] == [pytest.approx(0.08), pytest.approx(0.4)]
    assert sentence(found).endswith("every target is met")
    assert [table.row_count for table in tables(won, found)] == [7, 1, 7]

    lost = targets(contest(report(4.0, 0.25, 100.0), report(4.1, 0.3, 100.0)))
    assert not any(one["is_met"] for one in lost)


def test_a_run_that_is_missing_is_a_target_missed():
    rows = contest(report(0.4, 0.1, 700.0), report(0.9, 0.15, 700.0))
    rows = {name: row for name, row in rows.items() if name not in BESTS}
    found = targets(rows)
    assert [one["is_met"] for one in found] == [True, False, True, False, True, True, True]
    assert "not run" in sentence(found)
