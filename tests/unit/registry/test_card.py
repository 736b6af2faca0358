"""The model card says what the records say."""

from dataclasses import replace

from vivero.registry.card import CardFacts, model_card

FACTS = CardFacts(
    name="vivero",
    num_parameters=1_710_980,
    image_size_px=28,
    num_channels=1,
    class_names=["Dress", "Shirt"],
    data_name="Fashion-MNIST",
    licence="MIT",
    lineage={"data_digest": "abc", "code_commit": None},
    settings={"total_images": 256000},
)
METRIC = {"value": 5.0, "low": 4.5, "high": 5.5, "floor": 1.25, "n": 5000, "better": "lower"}


def test_every_fact_is_in_the_card():
    card = model_card(FACTS)
    for said in ["1,710,980", "28 x 28", "`Dress`, `Shirt`", "MIT", "`abc`", "256000"]:
        assert said in card
    assert "| code_commit | `unknown` |" in card
    assert "Not judged yet." in card


def test_figures_come_with_interval_floor_and_n():
    card = model_card(replace(FACTS, metrics={"fd.efficientnet_lite0.5k": METRIC}))
    assert "| fd.efficientnet_lite0.5k | 5 | 4.5 to 5.5 | 1.25 | 5000 | lower |" in card


def test_a_model_without_classes_says_so():
    assert "An unconditional image diffusion model" in model_card(replace(FACTS, class_names=[]))


def test_a_hostile_class_name_stays_text():
    card = model_card(replace(FACTS, class_names=["`|<script>\n# x"]))
    assert "`'/<script> # x`" in card
