"""The card of a data set, `data/card.json`: where the images come from and what they show.

It also holds the sha256 of every shard, which each stage that reads data/ compares.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vivero.errors import DataError
from vivero.files import read_json, write_json
from vivero.integrity.data_folder import SHARDS, hashes_of_shards

CARD_NAME = "card.json"


@dataclass(frozen=True)
class DataCard:
    """What a person must know about a data set before training on it.

    class_names[k] is the name of label k; empty when the images have no labels.
    num_channels is 1 when every image is grey, 3 otherwise.
    """

    name: str
    source: str
    licence: str
    class_names: tuple[str, ...]
    num_channels: Literal[1, 3]
    collected_by: str


def write_card(data_dir: Path, card: DataCard) -> None:
    """Write data_dir/card.json, with the hashes of the shards that lie there."""
    hashes = hashes_of_shards(data_dir)
    shards = {name: dataclasses.asdict(hashed) for name, hashed in hashes.items()}
    write_json(data_dir / CARD_NAME, {**dataclasses.asdict(card), SHARDS: shards})


def read_card(data_dir: Path) -> DataCard:
    """Read data_dir/card.json.

    Raises:
        DataError: When it is missing, is not JSON, or lacks or exceeds the known fields.
    """
    path = data_dir / CARD_NAME
    try:
        values = read_json(path)
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing; bring data in with `vivero data fetch` or "
            f"`vivero data import FOLDER --out {data_dir}`"
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}; bring the data in again") from error
    return _card(values, path)


def _card(values: Any, path: Path) -> DataCard:
    fields = {field.name for field in dataclasses.fields(DataCard)}
    if isinstance(values, dict):  # the hashes are read where they are checked
        values = {name: value for name, value in values.items() if name != SHARDS}
    if not isinstance(values, dict) or set(values) != fields:
        got = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise DataError(f"{path} must have the fields {sorted(fields)}; it has {got}")
    names = values["class_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"class_names in {path} must be a list of strings; it is {names!r}")
    if values["num_channels"] not in (1, 3):
        raise DataError(f"num_channels in {path} must be 1 or 3; it is {values['num_channels']!r}")
    return DataCard(**{**values, "class_names": tuple(names)})
