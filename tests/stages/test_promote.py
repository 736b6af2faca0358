"""Stage `promote`: acts on a verdict that allows it; a refusal says which gate and by how much."""

import shutil
from pathlib import Path

import pytest

from tests.model_versions import make_artifacts, read
from vivero.config.schema import Config
from vivero.errors import DataError, PromotionError
from vivero.files import write_json
from vivero.registry.check_model import check_bundle
from vivero.registry.moves import history
from vivero.registry.promotion import Request, promote_by_hand, rollback
from vivero.registry.versions import CHAMPION, find_alias, list_versions
from vivero.stages import judge, promote, register
from vivero.tracking.store import open_client


@pytest.fixture(autouse=True)
def _checked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check models in this process: the clean one takes seconds to start and has its own tests."""
    monkeypatch.setattr(
        "vivero.registry.promotion.check_in_clean_process",
        lambda bundle_dir, num_images, _timeout_s: check_bundle(bundle_dir, num_images),
    )


def flow(root: Path, config: Config) -> bool:
    judge.run(config, root)
    register.run(config, root)
    return promote.run(config, root)


def champion(root: Path) -> str | None:
    found = find_alias(root, "vivero", CHAMPION)
    return found.version if found else None


def state(root: Path, *places: str) -> tuple[object, ...]:
    written = [(root / "artifacts" / place).read_bytes() for place in places]
    return (*written, history(root, "vivero"), list_versions(root, "vivero"))


def test_the_whole_way_twice_changes_nothing_the_second_time(root: Path, tiny_config: Config):
    make_artifacts(root, tiny_config)
    assert flow(root, tiny_config) is True
    assert champion(root) == "1"
    assert read(root, "promote/promotion.json")["promoted"] is True
    places = ("judge/verdict.json", "judge/verdict.md", "register/MODEL_CARD.md")
    before = state(root, *places)

    assert flow(root, tiny_config) is True
    assert state(root, *places) == before
    assert "is the champion already" in read(root, "promote/promotion.json")["message"]


def test_a_clone_that_judged_nothing_changes_nothing_in_the_registry(
    root: Path, tiny_config: Config
):
    make_artifacts(root, tiny_config)
    flow(root, tiny_config)
    before = state(root, "register/MODEL_CARD.md")
    for stage in ("judge", "register", "promote"):
        shutil.rmtree(root / "artifacts" / stage)

    assert flow(root, tiny_config) is True
    assert read(root, "judge/verdict.json")["verdict"] == "champion"
    assert state(root, "register/MODEL_CARD.md") == before


@pytest.mark.parametrize(
    ("distance", "said"),
    [
        (5.05, "not promoted (hold): not better beyond chance"),
        (6.0, "not promoted (reject): worse beyond chance"),
        (40.0, "over floor is 40, at most 6, over by 34"),
    ],
)
def test_a_refusal_says_which_gate_and_by_how_much(
    root: Path, tiny_config: Config, distance: float, said: str
):
    make_artifacts(root, tiny_config)
    flow(root, tiny_config)
    make_artifacts(root, tiny_config, seed=1, distance=distance)
    assert flow(root, tiny_config) is False
    promotion = read(root, "promote/promotion.json")
    assert promotion["promoted"] is False
    assert said in promotion["message"]
    assert promotion["message"].endswith("The champion is unchanged")
    assert champion(root) == "1"


def test_a_better_model_becomes_champion_and_the_verdict_is_recorded(
    root: Path, tiny_config: Config
):
    make_artifacts(root, tiny_config)
    flow(root, tiny_config)
    make_artifacts(root, tiny_config, seed=1, distance=3.0)
    assert flow(root, tiny_config) is True
    assert champion(root) == "2"
    event = history(root, "vivero")[-1]
    assert (event.champion, event.former) == ("2", "1")
    assert "better beyond chance" in event.why
    assert event.verdict_sha256
    assert event.by


def test_what_was_rolled_back_stays_so_until_a_person_says_otherwise(
    root: Path, tiny_config: Config
):
    make_artifacts(root, tiny_config)
    flow(root, tiny_config)
    make_artifacts(root, tiny_config, seed=1, distance=3.0)
    flow(root, tiny_config)
    rollback(root, "vivero", "complaints")

    assert flow(root, tiny_config) is False
    assert champion(root) == "1"
    assert "rolled it back" in read(root, "promote/promotion.json")["message"]
    request = Request("vivero", "2", "1", "they were wrong")
    assert promote_by_hand(root, request, tiny_config.promote, force=False)
    assert champion(root) == "2"


def test_a_champion_that_changed_since_the_verdict_is_left_alone(root: Path, tiny_config: Config):
    make_artifacts(root, tiny_config)
    flow(root, tiny_config)
    make_artifacts(root, tiny_config, seed=1, distance=3.0)
    flow(root, tiny_config)
    make_artifacts(root, tiny_config, seed=2, distance=1.0)
    judge.run(tiny_config, root)
    register.run(tiny_config, root)
    open_client(root).set_registered_model_alias("vivero", CHAMPION, "1")
    with pytest.raises(PromotionError, match=r"expected version 2 .* found version 1"):
        promote.run(tiny_config, root)
    assert champion(root) == "1"


def test_a_stale_verdict_does_not_make_a_version_the_champion(root: Path, tiny_config: Config):
    make_artifacts(root, tiny_config)
    flow(root, tiny_config)
    flow(root, tiny_config)  # what was judged now is the champion itself
    shutil.rmtree(root / "artifacts" / "judge")
    judge.run(tiny_config, root)
    assert read(root, "judge/verdict.json")["is_champion_itself"] is True
    shutil.copytree(root / "artifacts", root / "first")
    make_artifacts(root, tiny_config, seed=1, distance=3.0)
    flow(root, tiny_config)
    shutil.rmtree(root / "artifacts")
    shutil.copytree(root / "first", root / "artifacts")

    with pytest.raises(
        PromotionError, match=r"out of date: expected version 1 .* found version 2 .*vivero judge"
    ):
        promote.run(tiny_config, root)
    assert champion(root) == "2"


@pytest.mark.parametrize("distance", [3.0, 5.05, 6.0])
def test_a_verdict_against_another_champion_is_refused_whatever_it_was(
    root: Path, tiny_config: Config, distance: float
):
    make_artifacts(root, tiny_config)
    flow(root, tiny_config)
    make_artifacts(root, tiny_config, seed=1, distance=3.0)
    flow(root, tiny_config)
    make_artifacts(root, tiny_config, seed=2, distance=distance - 2.0)
    judge.run(tiny_config, root)
    register.run(tiny_config, root)
    open_client(root).delete_registered_model_alias("vivero", CHAMPION)
    with pytest.raises(PromotionError, match=r"expected version 2 .* found nobody"):
        promote.run(tiny_config, root)
    assert champion(root) is None


GATE = {
    "name": "lineage", "passed": True, "value": None, "limit": None, "reason": "too far",
    "kind": "limit",
}  # fmt: skip


def changed_verdict(root: Path, **values: object) -> None:
    path = root / "artifacts" / "judge" / "verdict.json"
    write_json(path, {**read(root, "judge/verdict.json"), **values})


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        ({"champion_weights_sha256": "f" * 64}, PromotionError, r"weights ffffffffffff"),
        ({"champion": "7"}, PromotionError, "expected version 7"),
        ({"champion": None, "champion_weights_sha256": None}, PromotionError, "expected nobody"),
        ({"is_champion_itself": True}, PromotionError, "out of date"),
        ({"champion_sampling_sha256": "f" * 64}, PromotionError, r"sampling ffffffffffff"),
        ({"gates": [{**GATE, "passed": False}]}, DataError, "contradicts.*too far"),
        ({"gates": [{**GATE, "passed": None}]}, DataError, "contradicts itself"),
        ({"gates": [GATE]}, DataError, r"gates are missing: .*fd\..*\(superiority\).*vivero judge"),
        ({"gates": []}, DataError, "cannot be used"),
        ({"gates": None}, DataError, "cannot be used"),
        ({"verdict": "first"}, DataError, "its gates give 'promote'"),
        ({"report_sha256": "f" * 64}, DataError, "other report .*vivero judge"),
        ({"settings": {}}, DataError, "other settings .*vivero judge"),
    ],
)
def test_what_a_verdict_says_is_checked_against_the_registry(
    root: Path, tiny_config: Config, values: dict[str, object], error: type, said: str
):
    make_artifacts(root, tiny_config)
    flow(root, tiny_config)
    make_artifacts(root, tiny_config, seed=1, distance=3.0)
    judge.run(tiny_config, root)
    register.run(tiny_config, root)
    changed_verdict(root, **values)
    with pytest.raises(error, match=said):
        promote.run(tiny_config, root)
    assert champion(root) == "1"


def test_the_registrys_weights_are_those_that_were_judged(root: Path, tiny_config: Config):
    make_artifacts(root, tiny_config)
    flow(root, tiny_config)
    make_artifacts(root, tiny_config, seed=1, distance=3.0)
    judge.run(tiny_config, root)
    register.run(tiny_config, root)
    registered = root / "artifacts" / "register" / "registered.json"
    write_json(registered, {**read(root, "register/registered.json"), "version": "1"})
    with pytest.raises(PromotionError, match=r"version 1 .* has weights .*vivero judge"):
        promote.run(tiny_config, root)
    assert champion(root) == "1"


def test_an_incomplete_verdict_says_what_makes_a_new_one(root: Path, tiny_config: Config):
    make_artifacts(root, tiny_config)
    judge.run(tiny_config, root)
    register.run(tiny_config, root)
    verdict = read(root, "judge/verdict.json")
    del verdict["champion_weights_sha256"]
    write_json(root / "artifacts" / "judge" / "verdict.json", verdict)
    with pytest.raises(DataError, match=r"cannot be used.*champion_weights.*vivero judge"):
        promote.run(tiny_config, root)


def test_a_verdict_on_other_weights_is_refused(root: Path, tiny_config: Config):
    make_artifacts(root, tiny_config)
    judge.run(tiny_config, root)
    register.run(tiny_config, root)
    make_artifacts(root, tiny_config, seed=1)
    judge.run(tiny_config, root)
    with pytest.raises(DataError, match=r"than those registered; run `vivero"):
        promote.run(tiny_config, root)


def test_without_a_verdict_it_says_what_makes_one(root: Path, tiny_config: Config):
    with pytest.raises(DataError, match=r"verdict\.json is missing; run `vivero judge` first"):
        promote.run(tiny_config, root)
