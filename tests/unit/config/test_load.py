"""params.yaml is read strictly; a mistake is named with its line and what to write."""

from pathlib import Path

import pytest

from vivero.config.load import load_config
from vivero.errors import ConfigError

REPOSITORY = Path(__file__).parents[3]
PARAMS = (REPOSITORY / "params.yaml").read_text()


def line_of(text: str, start: str) -> int:
    return next(i for i, row in enumerate(text.splitlines(), 1) if row.strip().startswith(start))


def refused(tmp_path: Path, old: str, new: str) -> tuple[str, str]:
    text = PARAMS.replace(old, new, 1)
    assert text != PARAMS, f"params.yaml has no {old!r}"
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"mistake") as caught:
        load_config(path)
    return str(caught.value), text


def test_the_params_of_the_repository_are_read():
    config = load_config(REPOSITORY / "params.yaml")
    assert config.train.learning_rate == pytest.approx(1e-2)
    assert config.registration.model_name == "vivero"


def test_an_unknown_key_is_named_with_its_line(tmp_path: Path):
    message, text = refused(tmp_path, "  label_dropout:", "  label_dropuot: 0.1\n  label_dropout:")
    assert f"line {line_of(text, 'label_dropuot')}: train.label_dropuot: unknown key" in message
    assert "did you mean label_dropout?" in message


@pytest.mark.parametrize(
    ("block", "key", "target"),
    [
        ("train", "sampling", "the block sampling"),
        *[
            ("sample", name, f"sampling.{name}")
            for name in (
                "sampler", "num_steps", "guidance", "guidance_interval", "adaptive_threshold",
            )
        ],
    ],
)  # fmt: skip
def test_a_setting_that_moved_is_named_with_its_new_place(
    tmp_path: Path, block: str, key: str, target: str
):
    head = next(row for row in PARAMS.splitlines() if row.startswith(f"{block}:"))
    message, text = refused(tmp_path, f"\n{head}\n", f"\n{head}\n  {key}: 1\n")
    line = text.splitlines().index(head) + 2
    expected = f"this setting is now {target}; set it there and remove this one"
    assert f"line {line}: {block}.{key}: {expected}" in message


def test_an_unknown_block_is_named(tmp_path: Path):
    message, text = refused(tmp_path, "judge:", "judgement: {}\njudge:")
    assert f"line {line_of(text, 'judgement')}: judgement: unknown key" in message


def test_a_missing_key_is_named(tmp_path: Path):
    message, _ = refused(tmp_path, "  warmup_images: 6400\n", "")
    assert "train.warmup_images: is missing" in message


def test_text_for_a_number_is_refused_with_what_to_write(tmp_path: Path):
    message, text = refused(tmp_path, "learning_rate: 1.0e-2", "learning_rate: '1e-3'")
    assert f"line {line_of(text, 'learning_rate')}: train.learning_rate" in message
    assert "write 1.0e-3" in message


def test_a_number_with_a_point_is_not_taken_for_a_count(tmp_path: Path):
    message, _ = refused(tmp_path, "  warmup_images: ", "  warmup_images: 0.5 # ")
    assert "train.warmup_images" in message
    assert "integer" in message


def test_true_is_not_taken_for_one(tmp_path: Path):
    message, _ = refused(tmp_path, "  num_processes: 1\n", "  num_processes: true\n")
    assert "train.num_processes" in message


def test_infinity_is_refused(tmp_path: Path):
    message, _ = refused(tmp_path, "sigma_max: 80.0", "sigma_max: .inf")
    assert "train.diffusion.sigma_max" in message


def test_an_interval_between_batches_says_what_to_write(tmp_path: Path):
    message, _ = refused(tmp_path, "log_every_images: 1280", "log_every_images: 1281")
    assert "write log_every_images: 1280" in message


def test_an_image_size_that_the_model_cannot_halve_says_what_to_write(tmp_path: Path):
    message, _ = refused(tmp_path, "image_size_px: 28", "image_size_px: 30")
    assert "write image_size_px: 32" in message


def test_a_contradiction_is_shown_at_the_line_of_its_key(tmp_path: Path):
    message, text = refused(tmp_path, "warmup_images: 6400", "warmup_images: 6400000")
    assert f"line {line_of(text, 'warmup_images')}: train: warmup_images must be below" in message
    total_images = load_config(REPOSITORY / "params.yaml").train.total_images
    assert f"write warmup_images: {total_images // 40}" in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_micro_batches: 1 ": "num_micro_batches: 3 "}, "write batch_images: 66"),
        (
            {"sharding: none ": "sharding: full ", "num_processes: 1\n": "num_processes: 2\n",
             "precision: fp32 ": "precision: fp16 "},
            "write precision: bf16",
        ),
        (
            {"sharding: none ": "sharding: full ", "num_processes: 1\n": "num_processes: 2\n",
             "gradient_clipping: global ": "gradient_clipping: adaptive "},
            "write gradient_clipping: global",
        ),
        (
            {"sharding: none ": "sharding: full ", "num_processes: 1\n": "num_processes: 2\n"},
            "write sharding: none (or model.name: unet)",
        ),
        ({"[12800, 3200]": "[3200, 3200]"}, "ema_halflives_images must differ"),
        (
            {"early_stopping_images: 0 ": "early_stopping_images: 64000 ",
             "checkpoint_every_images: 12800": "checkpoint_every_images: 64000"},
            "write checkpoint_every_images: ",
        ),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_say_what_to_write(tmp_path: Path, changes, said: str):
    text = PARAMS
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="1 mistake") as caught:
        load_config(path)
    assert said in str(caught.value)


def test_not_a_number_is_refused(tmp_path: Path):
    message, _ = refused(tmp_path, "train_log_sigma_mean: -0.6", "train_log_sigma_mean: .nan")
    assert "train.diffusion.train_log_sigma_mean" in message


def test_swapped_bounds_are_refused(tmp_path: Path):
    message, _ = refused(tmp_path, "sigma_min: 0.01", "sigma_min: 100.0")
    assert "sigma_min must be below sigma_max" in message


def test_all_mistakes_are_shown_at_once(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.replace("seed: 0", "sede: 0").replace("level: 0.05", "level: high"))
    with pytest.raises(ConfigError, match=r"\d mistake") as caught:
        load_config(path)
    assert "train.sede" in str(caught.value)
    assert "check_drift.level" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"train: [1, 2", "is not valid YAML"),
        (b"a: 1\na: 2\n", "is not valid YAML"),
        (b"\xff\xfe\x00", "is not valid YAML"),
        (b"", "must hold one block per stage"),
        (b"- 1\n", "must hold one block per stage"),
    ],
)
def test_what_is_no_settings_file_is_refused(tmp_path: Path, content: bytes, said: str):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load_config(path)


def test_a_missing_file_says_where_to_run(tmp_path: Path):
    with pytest.raises(ConfigError, match="inside a clone of the repository"):
        load_config(tmp_path / "params.yaml")
