"""The champion: moved only from where it is thought to be, never lost, always with a way back."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.mlflow_stores import BrokenClient, empty_store
from tests.model_versions import report, write_verdict
from tests.unit.registry.test_registration import NAME, candidate_of
from vivero.config.schema import Config
from vivero.errors import PromotionError, TrackingError
from vivero.files import write_json
from vivero.registry.bundle import BundleContents, load_bundle, write_bundle
from vivero.registry.check_model import check_bundle, check_in_clean_process
from vivero.registry.moves import history
from vivero.registry.promotion import (
    ANY_CHAMPION,
    Request,
    promote,
    promote_by_hand,
    rollback,
    withdrawal,
)
from vivero.registry.registration import Candidate, register_version
from vivero.registry.versions import bring_here, find_alias, find_version
from vivero.tracking.store import open_client


@pytest.fixture
def checked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check models in this process: the clean one takes seconds to start and has its own tests."""
    monkeypatch.setattr(
        "vivero.registry.promotion.check_in_clean_process",
        lambda bundle_dir, num_images, _timeout_s: check_bundle(bundle_dir, num_images),
    )


def register_three(root: Path, config: Config) -> Path:
    for seed in range(3):
        register_version(root, NAME, candidate_of(root, config, seed))
    return root


@pytest.fixture(scope="session")
def embedded_three(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> Path:
    """An embedded store with three versions, made once: tests copy it."""
    folder = tmp_path_factory.mktemp("three")
    (folder / "mlflow.db").write_bytes(empty_store())
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return register_three(folder, tiny_config)


@pytest.fixture
def three_versions(
    root: Path, tiny_config: Config, checked_here: None, request: pytest.FixtureRequest
) -> Path:
    if not (root / "mlflow.db").exists():
        return register_three(root, tiny_config)
    made = request.getfixturevalue("embedded_three")
    shutil.copytree(made, root, dirs_exist_ok=True)
    return root


def aliases(root: Path) -> dict[str, str]:
    found = {alias: find_alias(root, NAME, alias) for alias in ("champion", "previous")}
    return {alias: version.version for alias, version in found.items() if version}


def wish(version: str, expected: str | None = ANY_CHAMPION) -> Request:
    return Request(NAME, version, expected, "because")


def test_the_former_champion_is_kept_and_comes_back(three_versions: Path, tiny_config: Config):
    root, config = three_versions, tiny_config.promote
    first = promote(root, wish("1", None), config)
    assert first is not None
    assert (first.champion, first.former) == ("1", None)
    promote(root, wish("2", "1"), config)
    assert aliases(root) == {"champion": "2", "previous": "1"}
    assert promote(root, wish("2"), config) is None
    assert len(history(root, NAME)) == 2

    event = rollback(root, NAME, "complaints")
    assert aliases(root) == {"champion": "1", "previous": "2"}
    assert (event.champion, event.former, event.why) == ("1", "2", "complaints")
    assert withdrawal(root, NAME, "2") == event
    assert withdrawal(root, NAME, "1") is None
    rollback(root, NAME, "they were wrong")
    assert aliases(root) == {"champion": "2", "previous": "1"}
    assert withdrawal(root, NAME, "2") is None
    actions = [event.action for event in history(root, NAME)]
    assert actions == ["promote", "promote", "rollback", "rollback"]


def test_a_rollback_sent_twice_takes_one_version_back(three_versions: Path, tiny_config: Config):
    root, config = three_versions, tiny_config.promote
    promote(root, wish("1"), config)
    promote(root, wish("2"), config)
    assert rollback(root, NAME, "complaints", "2") is not None
    assert rollback(root, NAME, "complaints", "2") is None
    assert aliases(root) == {"champion": "1", "previous": "2"}
    assert len(history(root, NAME)) == 3
    promote(root, wish("3"), config)
    with pytest.raises(PromotionError, match=r"expected version 2 .* found version 3.*history"):
        rollback(root, NAME, "complaints", "2")
    assert aliases(root) == {"champion": "3", "previous": "1"}


@pytest.mark.parametrize(
    ("expected", "said"),
    [(None, "expected nobody .* found version 1"), ("2", "expected version 2 .* found version 1")],
)
def test_somebody_was_quicker(
    three_versions: Path, tiny_config: Config, expected: str | None, said: str
):
    promote(three_versions, wish("1"), tiny_config.promote)
    with pytest.raises(PromotionError, match=said):
        promote(three_versions, wish("3", expected), tiny_config.promote)
    assert aliases(three_versions) == {"champion": "1"}


def test_somebody_was_quicker_while_the_model_was_checked(
    three_versions: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
):
    promote(three_versions, wish("1"), tiny_config.promote)

    def check(*_: object) -> None:
        open_client(three_versions).set_registered_model_alias(NAME, "champion", "2")

    monkeypatch.setattr("vivero.registry.promotion.check_in_clean_process", check)
    with pytest.raises(PromotionError, match=r"expected version 1 .* found version 2"):
        promote(three_versions, wish("3", "1"), tiny_config.promote)
    assert aliases(three_versions) == {"champion": "2"}


def test_there_is_nothing_to_go_back_to(three_versions: Path, tiny_config: Config):
    with pytest.raises(PromotionError, match=r"has no champion.*vivero models"):
        rollback(three_versions, NAME, "why")
    promote(three_versions, wish("1"), tiny_config.promote)
    with pytest.raises(PromotionError, match="has no previous champion"):
        rollback(three_versions, NAME, "why")


def test_a_version_that_does_not_exist_is_not_promoted(three_versions: Path, tiny_config: Config):
    with pytest.raises(TrackingError, match=r"no version 9 \(there are: 1, 2, 3\)"):
        promote(three_versions, wish("9"), tiny_config.promote)


def judged(root: Path, config: Config, seed: int, distance: float, champion: str | None) -> None:
    """Register a version that was judged against a champion; its files are in artifacts/."""
    candidate = candidate_of(root, config, seed)
    write_json(candidate.metrics_path, report(distance, config=config))
    present = None if champion is None else find_version(root, f"models:/{NAME}/{champion}")
    write_verdict(root, config, present)
    register_version(root, NAME, candidate)


def test_what_the_gate_refused_needs_force(root: Path, tiny_config: Config, checked_here: None):
    judged(root, tiny_config, 0, 40.0, None)
    open_client(root).set_model_version_tag(NAME, "1", "vivero.verdict", "promote")
    with pytest.raises(PromotionError, match=r"was 'reject': .*over by 34.*--force"):
        promote_by_hand(root, wish("1"), tiny_config.promote, force=False)
    event = promote_by_hand(root, wish("1"), tiny_config.promote, force=True)
    assert event is not None
    assert "forced; the verdict was 'reject'" in event.why


def test_a_version_without_a_signed_verdict_needs_force(
    root: Path, tiny_config: Config, checked_here: None, monkeypatch: pytest.MonkeyPatch
):
    """An older release stored no verdict.json with a version, and a tag can have any value."""
    with monkeypatch.context() as patch:
        patch.setattr(
            Candidate, "files", property(lambda self: [self.bundle_dir, *self.report_files])
        )
        register_version(root, NAME, candidate_of(root, tiny_config))
    with pytest.raises(PromotionError, match=r"was not judged.*vivero judge.*--force"):
        promote_by_hand(root, wish("1"), tiny_config.promote, force=False)
    assert aliases(root) == {}
    assert promote_by_hand(root, wish("1"), tiny_config.promote, force=True)
    assert aliases(root) == {"champion": "1"}


def test_by_hand_a_verdict_against_another_champion_needs_force(
    root: Path, tiny_config: Config, checked_here: None
):
    config = tiny_config.promote
    judged(root, tiny_config, 0, 5.0, None)
    assert promote_by_hand(root, wish("1"), config, force=False)
    judged(root, tiny_config, 1, 3.0, "1")
    judged(root, tiny_config, 2, 3.0, "1")
    assert promote_by_hand(root, wish("3"), config, force=False)
    with pytest.raises(PromotionError, match=r"expected version 1 .* found version 3.*--force"):
        promote_by_hand(root, wish("2"), config, force=False)
    assert aliases(root) == {"champion": "3", "previous": "1"}
    judged(root, tiny_config, 1, 3.0, "3")  # judged again: the later verdict counts
    assert promote_by_hand(root, wish("2"), config, force=False)
    assert aliases(root) == {"champion": "2", "previous": "3"}


def test_by_hand_the_verdict_first_is_for_the_first_champion_alone(
    three_versions: Path, tiny_config: Config
):
    promote(three_versions, wish("1"), tiny_config.promote)
    with pytest.raises(PromotionError, match=r"expected nobody .* found version 1"):
        promote_by_hand(three_versions, wish("2"), tiny_config.promote, force=False)
    assert aliases(three_versions) == {"champion": "1"}


@pytest.mark.parametrize(
    ("has_effect", "step"),
    [
        (True, 9),
        pytest.param(True, 1, marks=pytest.mark.slow),
        pytest.param(False, 1, marks=pytest.mark.slow),
    ],
)
def test_a_kill_at_any_call_leaves_a_whole_champion_and_a_whole_record(
    three_versions: Path,
    tiny_config: Config,
    has_effect: bool,
    step: int,
    monkeypatch: pytest.MonkeyPatch,
):
    root, config = three_versions, tiny_config.promote
    promote(root, wish("1"), config)
    promote(root, wish("2"), config)
    client = open_client(root)
    champion, other = "2", "3"
    for num_rounds, fails_at in enumerate(range(1, 60, step), start=1):
        broken = BrokenClient(client, fails_at, has_effect)
        with monkeypatch.context() as patch:
            for module in ("moves", "versions"):
                patch.setattr(f"vivero.registry.{module}.open_client", lambda _, b=broken: b)
            try:
                promote(root, wish(other), config)
            except TrackingError:
                pass
            else:
                break
        found = find_alias(root, NAME, "champion")
        assert found is not None
        assert found.version in (champion, other)
        bring_here(root, found)

        promote(root, wish(other), config)
        assert aliases(root) == {"champion": other, "previous": champion}
        events = history(root, NAME)
        assert len(events) == 2 + num_rounds
        assert (events[-1].champion, events[-1].former) == (other, champion)
        claims = client.search_experiments(filter_string=f"name LIKE '{NAME}.move.%'")
        assert claims == [], "hidden, once made"
        champion, other = other, champion
    assert 12 < fails_at < 60 - step, "the fault never fired, or always"


def test_an_interrupted_move_that_a_person_overtook_is_forgotten(
    three_versions: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
):
    root, config = three_versions, tiny_config.promote
    promote(root, wish("1"), config)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vivero.registry.moves._carry_out", killed)
        with pytest.raises(KeyboardInterrupt):
            promote(root, wish("2"), config)
    open_client(root).set_registered_model_alias(NAME, "champion", "3")
    open_client(root).set_registered_model_alias(NAME, "previous", "1")
    event = rollback(root, NAME, "back to the first")
    assert event.champion == "1"
    assert aliases(root) == {"champion": "1", "previous": "3"}


@pytest.mark.parametrize("place", ["before its aliases", "before its record", "before it hides"])
def test_a_promoter_that_slept_does_not_undo_a_newer_move(
    three_versions: Path, tiny_config: Config, place: str, monkeypatch: pytest.MonkeyPatch
):
    """It claimed its move and fell asleep; another finished that move and made the next one."""
    root, config = three_versions, tiny_config.promote
    promote(root, wish("1"), config)
    calls = {
        "before its aliases": "set_registered_model_alias",
        "before its record": "set_registered_model_tag",
        "before it hides": "delete_experiment",
    }
    client = SleepyClient(open_client(root), calls[place])

    def overtake() -> None:
        with monkeypatch.context() as awake:
            awake.setattr("vivero.registry.moves.open_client", open_client)
            promote(root, wish("3"), config)

    client.meanwhile = overtake
    monkeypatch.setattr("vivero.registry.moves.open_client", lambda _: client)
    promote(root, wish("2"), config)
    assert client.has_slept
    monkeypatch.setattr("vivero.registry.moves.open_client", open_client)
    assert aliases(root) == {"champion": "3", "previous": "2"}
    assert [(event.former, event.champion) for event in history(root, NAME)] == [
        (None, "1"), ("1", "2"), ("2", "3"),
    ]  # fmt: skip
    claims = open_client(root).search_experiments(filter_string=f"name LIKE '{NAME}.move.%'")
    assert claims == []


class SleepyClient:
    """A client of MLflow; while it waits before one of its calls, others do their work."""

    def __init__(self, client: object, name: str) -> None:
        self._client, self._name = client, name
        self.meanwhile: Callable[[], None] = lambda: None
        self.has_slept = False

    def __getattr__(self, name: str):
        method = getattr(self._client, name)

        def call(*args: object, **kwargs: object) -> object:
            if name == self._name and not self.has_slept:
                self.has_slept = True
                self.meanwhile()
            return method(*args, **kwargs)

        return call


def broken_bundle(source_dir: Path, bundle_dir: Path) -> Path:
    """The same model with weights that are not numbers."""
    bundle = load_bundle(source_dir)
    config = bundle.config.model_dump()
    diverged = {
        name: torch.full_like(weight, torch.nan)
        for name, weight in bundle.network.named_parameters()
    }
    weights = {**bundle.network.state_dict(), **diverged}
    write_bundle(bundle_dir, BundleContents(weights, config, bundle.lineage.values(), "# Broken\n"))
    return bundle_dir


def test_a_good_model_passes_in_a_clean_process(root: Path, tiny_config: Config):
    candidate = candidate_of(root, tiny_config)
    seen = check_in_clean_process(candidate.bundle_dir, num_images=3, timeout_s=120)
    assert seen["num_images"] == 3
    assert seen["least_std"] > 1


def test_a_model_that_does_not_work_never_becomes_champion(root: Path, tiny_config: Config):
    candidate = candidate_of(root, tiny_config)
    broken_dir = broken_bundle(candidate.bundle_dir, root / "broken" / "bundle")
    shutil.rmtree(candidate.bundle_dir)
    broken_dir.rename(candidate.bundle_dir)
    write_verdict(root, tiny_config)
    register_version(root, NAME, candidate)
    with pytest.raises(
        PromotionError, match=r"does not work in a clean process.*weights have diverged"
    ):
        promote(root, wish("1"), tiny_config.promote)
    assert aliases(root) == {}
    assert history(root, NAME) == []


def test_a_model_that_takes_too_long_is_refused(root: Path, tiny_config: Config):
    candidate = candidate_of(root, tiny_config)
    with pytest.raises(PromotionError, match=r"within 0.01 s in a clean process.*check_timeout_s"):
        check_in_clean_process(candidate.bundle_dir, num_images=1, timeout_s=0.01)


@pytest.mark.parametrize("letter", ["\u6a21", '"', "\x01", "\n"])
def test_a_reason_of_any_letters_fits_what_mlflow_keeps(
    three_versions: Path, tiny_config: Config, letter: str
):
    root = three_versions
    event = promote(root, Request(NAME, "1", None, letter * 4000), tiny_config.promote)
    assert history(root, NAME) == [event]
    tags = open_client(root).get_registered_model(NAME).tags
    assert max(len(value) for value in tags.values()) < 5000
