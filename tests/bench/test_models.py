"""The rule of the choice, the clock of the runs, what is kept and what is published."""

import json
import math
import os
from dataclasses import asdict, replace

import pytest

from bench.model_report import (
    BEGIN,
    END,
    FD,
    LOSS,
    Cell,
    Figure,
    cell_of,
    figure_over,
    line_of,
    markdown,
    others_finished,
    publish,
    sentence_of,
    verdict,
)
from bench.model_run import decisive, paced
from bench.models import settings_of
from bench.variants import VARIANTS, Run, runs_in_order, train_config_of, variant_of
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, project_dir
from vivero.integrity.caches import write_record
from vivero.training.learning_rate import rate_at


@pytest.fixture(scope="module")
def config():
    return load_config(project_dir() / PARAMS)


def cell(loss, fd, ms, std=0.1, num_seeds=3, num_diverged=0, **others):
    figures = {
        LOSS: Figure(loss, std, ()),
        FD: Figure(fd, std, ()),
        "ms_per_image": Figure(ms, 0.0, ()),
        **{name.replace("fd_", "fd."): value for name, value in others.items()},
    }
    return Cell(figures, {}, {}, num_seeds, num_diverged)


PLAIN = cell(1.0, 4.0, ms=20)


def test_the_tree_is_taken_where_it_is_no_worse_and_fast():
    found = verdict(cell(1.09, 4.09, ms=10), PLAIN)
    assert found.is_tree
    assert found.speedup == 2.0


@pytest.mark.parametrize(
    ("name", "tree", "plain", "words"),
    [
        # three seeds on colour photographs, docs/experiments.md: the mean over judges hides both
        ("agreement", (0.3543, 0.0043), (0.4198, 0.024), "label agreement 0.3543 against 0.4198"),
        ("fd_pooled", (6.082, 0.38), (5.247, 0.35), "FD pooled 6.082 against 5.247"),
        ("fd_strided", (14.18, 0.1), (14.0, 0.1), "FD strided"),
        ("fd_efficientnet_lite0", (2898, 10), (2839, 10), "FD EfficientNet"),
    ],
)
def test_one_metric_that_is_worse_by_more_than_the_spread_decides(name, tree, plain, words):
    found = verdict(
        cell(0.5, 3.9, ms=10, **{name: Figure(*tree, ())}),
        cell(1.0, 4.0, ms=20, **{name: Figure(*plain, ())}),
    )
    assert found.is_tree is False
    assert len(found.worse) == 1
    assert found.worse[0].startswith(words)


def test_a_metric_that_is_worse_within_the_spread_does_not_decide():
    found = verdict(
        cell(0.5, 3.9, ms=10, agreement=Figure(0.40, 0.03, ())),
        cell(1.0, 4.0, ms=20, agreement=Figure(0.42, 0.03, ())),
    )
    assert found.is_tree


def test_better_agreement_is_never_held_against_the_tree():
    found = verdict(
        cell(0.5, 3.9, ms=10, agreement=Figure(0.9, 0.0, ())),
        cell(1.0, 4.0, ms=20, agreement=Figure(0.4, 0.0, ())),
    )
    assert found.is_tree


def test_both_trainings_share_the_deviation():
    noisy = cell(1.09, 4.0, ms=10, std=0.0)
    assert verdict(noisy, PLAIN).worse == ("denoising loss 1.09 against 1",)


def test_a_better_tree_that_is_slow_is_not_taken():
    found = verdict(cell(0.5, 2.0, ms=13.4), PLAIN)
    assert found.is_tree is False
    assert not found.worse
    assert verdict(cell(0.5, 2.0, ms=13.3), PLAIN).is_tree


def test_a_run_that_diverged_counts_against_the_tree():
    assert verdict(None, PLAIN).is_tree is False
    assert verdict(cell(0.5, 2.0, ms=10, num_diverged=1), PLAIN).is_tree is False


def test_one_seed_allows_no_verdict():
    one_seed = cell(0.5, 2.0, ms=10, num_seeds=1)
    found = verdict(one_seed, PLAIN)
    assert found.is_tree is None
    pairs = {"colour": (one_seed, PLAIN)}
    assert "no verdict yet" in sentence_of({"colour": found}, pairs, 240)
    assert verdict(cell(0.5, 2.0, ms=10), replace(PLAIN, num_seeds=1)).is_tree is None


def test_each_data_set_has_its_own_verdict_with_its_reasons():
    good, bad = cell(0.5, 2.0, ms=10), cell(0.5, 4.2, ms=10)
    pairs = {"fashion_mnist": (good, PLAIN), "colour": (bad, PLAIN)}
    text = sentence_of({name: verdict(*pair) for name, pair in pairs.items()}, pairs, 240)
    assert "on fashion_mnist denoising loss" in text
    assert "2.00 times as fast: take the tree; on colour" in text
    assert text.endswith("take the plain control (the tree is worse: FD over floor 4.2 against 4)")


def test_what_decides_comes_first_seed_by_seed():
    runs = list(runs_in_order(("a", "b"), None, (0, 1), 240, 1000))
    first = [(run.seed, run.dataset, run.variant) for run in runs[:6]]
    assert first == [(0, d, v) for d in "ab" for v in ("A0", "A3", "U0")]
    assert [run.seed for run in runs[6:12]] == [1] * 6
    assert {run.variant for run in runs} == set(VARIANTS)
    assert len(set(runs)) == len(runs) == 2 * 2 * len(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_fits_the_settings(name, config):
    train = train_config_of(Run("colour", name, 7, 240, 1000), config)
    assert train.seed == 7
    assert train.model.name == ("unet" if name == "U0" else "tree")
    json.dumps(decisive(train))


def test_the_control_learns_nothing_but_the_finest_branch(config):
    train = train_config_of(Run("colour", "A0", 0, 240, 1000), config)
    assert train.model.tree.threshold is None
    assert not train.model.tree.is_fused
    weights = [v for name, v in train.loss.model_dump().items() if name.endswith("_weight")]
    assert weights == [0.0] * 5


def test_a_trial_changes_one_thing_more(config):
    run = Run("colour", "A3+learning_rate=1e-3", 0, 240, 1000)
    assert train_config_of(run, config).learning_rate == 1e-3
    with pytest.raises(ValueError, match="no setting"):
        train_config_of(Run("colour", "A3+learning_rat=1", 0, 240, 1000), config)
    with pytest.raises(ValueError, match="known are U0"):
        variant_of("A9")


def test_a_naive_hand_over_takes_the_weights_of_the_tree():
    run = Run("colour", "A4", 2, 240, 1000)
    assert run.weights_from == Run("colour", "A3", 2, 240, 1000)
    assert run.weights_from.weights_from is None


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.999])
@pytest.mark.parametrize("images_seen", [64, 6400, 10**6])
def test_the_learning_rate_follows_the_share_of_the_time(share, images_seen, config):
    train = config.train.model_copy(update={"learning_rate_schedule": "cosine"})
    warmup_share = train.warmup_images / train.total_images
    expected = min(1, share / warmup_share) * (1 + math.cos(math.pi * share)) / 2
    found = rate_at(images_seen, paced(train, images_seen, share))
    assert found == pytest.approx(train.learning_rate * expected)
    assert rate_at(0, paced(train, 0, 0.0)) == 0


def test_the_environment_is_read_and_checked():
    settings = settings_of({"SEEDS": "3,4", "VARIANTS": "A0 A3", "SECONDS_PER_RUN": "5"}, 2)
    assert settings.seeds == (3, 4)
    assert len(settings.runs()) == 8
    assert settings_of({}, 2).seconds == 240
    for wrong, said in (
        ({"JOBS": "3"}, "JOBS in 1..2"),
        ({"DATASETS": "mnist"}, "no data set"),
        ({"VARIANTS": "B1"}, "no variant"),
        ({"SEEDS": "one"}, "one"),
    ):
        with pytest.raises(ValueError, match=said):
            settings_of(wrong, 2)


def result(seed, loss, has_other_sampler=True):
    judges = {
        name: {"fd": 2.0 * floor, "fd_floor": floor, "agreement": 0.9}
        for name, floor in (("strided", 0.5), ("pooled", 0.6), ("efficientnet_lite0", 50.0))
    }
    samplings = [
        {"is_own": is_own, "guidance": guidance, "ms_per_image": 10.0, "judges": judges}
        for is_own, guidance in ((True, 1.0), (True, 1.5), (False, 1.0))
    ]
    return {
        "has_diverged": False,
        "denoising": [{"sigma": 0.1, "value": loss}, {"sigma": 1.0, "value": 3 * loss}],
        "samplings": samplings if has_other_sampler else samplings[:2],
        "used": {"images_per_s": 100.0, "images_seen": 24_000, "num_parameters": 1_700_000},
        "finished_at": 0.0,
        "made_from": {"code_sha256": "c", "run": {"num_samples": 1000, "seed": seed}},
    }


def test_the_table_holds_means_over_seeds():
    found = cell_of([result(0, 1.0), result(1, 2.0)])
    assert found.figures[LOSS] == figure_over([2.0, 4.0])
    assert found.figures[FD].mean == 2.0
    assert found.loss_by_sigma == {0.1: 1.5, 1.0: 4.5}
    text = markdown({"colour": {"A3": found, "A8b": None}}, [result(0, 1.0)], "tree", 240)
    assert "| A3 | A2 + routing" in text
    assert "3 ± 1.4" in text
    assert "diverged" in text
    assert "C1" in text
    assert line_of(result(0, 1.0)).startswith("denoising loss 2.0000, FD 2.00 x floor")


def test_runs_that_diverged_are_counted_and_give_no_figures():
    diverged = {"has_diverged": True, "denoising": [], "samplings": []}
    assert cell_of([diverged]) is None
    assert cell_of([diverged, result(0, 1.0, has_other_sampler=False)]).num_diverged == 1


def test_a_narrower_call_reports_what_was_finished_before(tmp_path):
    def finish(folder, run, loss):
        made = {**result(run.seed, loss), "made_from": {"code_sha256": "c", "run": asdict(run)}}
        path = tmp_path / "work" / "bench" / "models" / run.dataset / run.variant / folder
        write_record(path / "result.json", folder, made)
        os.utime(path / "result.json", (loss, loss))

    asked = Run("colour", "A5", 0, 240.0, 1000)
    before = Run("fashion_mnist", "A3+learning_rate=1e-3", 1, 240.0, 1000)
    finish("1-old", before, 1.0)
    finish("1-new", before, 2.0)
    finish("0-asked", asked, 1.0)
    finish("0-short", replace(before, seconds=10.0), 1.0)
    finish("0-gone", replace(before, variant="B9"), 1.0)
    finish("1-damaged", before, 3.0)
    damaged = next(tmp_path.rglob("1-damaged/result.json"))
    damaged.write_text(damaged.read_text().replace('"value": 3.0', '"value": 1.0'))
    found = others_finished([asked], tmp_path)
    assert [*found] == [before]
    assert found[before]["denoising"][0]["value"] == 2.0
    assert found[before]["folder"].endswith("1-new")


def test_the_page_keeps_what_stands_around_the_section(tmp_path):
    page = tmp_path / "experiments.md"
    page.write_text("# Log\n\nbefore\n")
    publish(page, "first\n")
    page.write_text(page.read_text() + "\nafter\n")
    publish(page, "second\n")
    assert page.read_text() == f"# Log\n\nbefore\n\n{BEGIN}\nsecond\n{END}\n\nafter\n"
