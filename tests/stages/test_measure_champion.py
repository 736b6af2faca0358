"""The champion on fresh images: what holds without real images (test_champion_report has them)."""

from pathlib import Path

import pytest

from tests.model_versions import make_artifacts
from vivero.config.schema import Config
from vivero.errors import PromotionError
from vivero.registry.versions import CHAMPION, RECORDED_TAG, ModelVersion, find_alias
from vivero.stages import judge, measure_champion, promote, register
from vivero.stages.measure_champion import fresh_seed


def champion_of(root: Path) -> ModelVersion:
    found = find_alias(root, "vivero", CHAMPION)
    assert found is not None
    return found


def test_a_promotion_stands_where_nothing_can_be_measured(
    root: Path, tiny_config: Config, caplog: pytest.LogCaptureFixture
):
    make_artifacts(root, tiny_config)
    judge.run(tiny_config, root)
    register.run(tiny_config, root)
    settings = tiny_config.promote.model_copy(update={"measure_champion": False})
    assert promote.run(tiny_config.model_copy(update={"promote": settings}), root) is True
    assert "fresh images" not in caplog.text  # nothing was tried
    assert promote.run(tiny_config, root) is True
    assert champion_of(root).version == "1"
    assert "the champion was promoted, but not measured on fresh images" in caplog.text
    assert "Run `vivero measure-champion` in a clone that has the artifacts" in caplog.text
    assert RECORDED_TAG not in champion_of(root).tags


def test_without_a_champion_it_says_so(root: Path, tiny_config: Config):
    with pytest.raises(PromotionError, match="no champion to measure"):
        measure_champion.run(tiny_config, root)


def test_the_seed_depends_on_version_and_protocol_and_avoids_used_ones():
    def version(number: str) -> ModelVersion:
        return ModelVersion("vivero", number, (), {}, "", 0)

    seed = fresh_seed(version("1"), "a", set())
    assert seed == fresh_seed(version("1"), "a", set())
    assert 0 <= seed < 2**31
    others = {fresh_seed(version("2"), "a", set()), fresh_seed(version("1"), "b", set())}
    assert seed not in others
    assert fresh_seed(version("1"), "a", {seed, seed + 1}) == seed + 2
