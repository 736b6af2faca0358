"""What `vivero find-learning-rate` does: run a range test, draw it, say what to write."""

import sys
from dataclasses import asdict

from tqdm import tqdm

from vivero.config.load import load_config
from vivero.config.paths import PARAMS, project_dir, work_dir
from vivero.config.schema import TrainConfig
from vivero.evaluation.range_test_plot import plot_range_test
from vivero.files import write_json
from vivero.stages import trainer
from vivero.training.distributed import alone
from vivero.training.inputs import read_inputs
from vivero.training.learning_rate_finder import range_test


def suggest_learning_rate(num_steps: int) -> None:
    """Write work/learning_rate/range_test.json and .png, and print the suggestion.

    Args:
        num_steps: How many rates are tried at most.

    Raises:
        DataError: When no images are prepared.
        TrainingError: When the loss never fell.
    """
    root = project_dir()
    config = load_config(root / PARAMS)
    config = config.model_copy(update={"train": in_one_process(config.train)})
    inputs = read_inputs(config, root, trainer.initial_model(config.train, root))
    state, workers = trainer.new_state(inputs, alone()), alone()
    trainer.begin(state, inputs)
    rig = trainer.new_rig(state, inputs, workers)

    with tqdm(total=num_steps, desc="range test", unit="step", disable=None) as progress:

        def note(rate: float, loss: float) -> None:
            progress.set_postfix(rate=f"{rate:.1e}", loss=f"{loss:.4f}", refresh=False)
            progress.update()

        found = range_test(state, rig, num_steps, note)

    out_dir = work_dir(root) / "learning_rate"
    write_json(out_dir / "range_test.json", asdict(found))
    picture = out_dir / "range_test.png"
    plot_range_test(found.rates, found.losses, found.smoothed, found.suggestion, picture)
    sys.stdout.write(
        f"The smoothed loss was least at a learning rate of {found.suggestion * 10:.1e}; a tenth "
        f"of it is suggested: write learning_rate: {found.suggestion:.1e} in the block train of "
        f"{PARAMS} (now {config.train.learning_rate:.1e}). Picture: {picture}\n"
    )


def in_one_process(config: TrainConfig) -> TrainConfig:
    """The same training in this process: the batch, and so the suggestion, stay the same."""
    return config.model_copy(update={"num_processes": 1, "sharding": "none", "compile": False})
