"""Reads params.yaml once and strictly; a mistake is named with its line and what to write."""

import difflib
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarfloat import ScalarFloat

from vivero.config.schema import Config, SamplingConfig
from vivero.errors import ConfigError

MOVED = {  # settings of earlier versions, and where they are now
    "train.sampling": "the block sampling",
    **{f"sample.{name}": f"sampling.{name}" for name in SamplingConfig.model_fields},
}


def load_config(params_path: Path) -> Config:
    """Read params.yaml into a frozen Config.

    Raises:
        ConfigError: When the file is missing, is not YAML, or has an unknown key, a wrong type or
            a contradiction; the message names each line.
    """
    try:
        document = YAML(typ="rt").load(params_path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read {params_path}: {error.strerror}; run this inside a clone of the "
            f"repository, which has a params.yaml at its top"
        ) from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{params_path.name} is not valid YAML: {error}") from error
    if not isinstance(document, CommentedMap):
        raise ConfigError(f"{params_path.name} must hold one block per stage; it holds none")
    try:
        return Config.model_validate(_plain(document))
    except ValidationError as error:
        raise ConfigError(_explanation(params_path, document, error)) from error


def _plain(node: Any) -> Any:
    """Ruamel's round-trip types as plain dict, list, float and int, which strict mode wants."""
    if isinstance(node, CommentedMap):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(value) for value in node]
    if isinstance(node, bool):
        return node
    if isinstance(node, ScalarFloat | float):
        return float(node)
    if isinstance(node, int):
        return int(node)
    return str(node) if isinstance(node, str) else node


def _explanation(params_path: Path, document: CommentedMap, error: ValidationError) -> str:
    lines = [f"{params_path.name} has {error.error_count()} mistake(s):"]
    for mistake in error.errors():
        where = ".".join(str(part) for part in mistake["loc"]) or "the whole file"
        line = _line_of(document, _named_key(document, mistake))
        lines.append(f"  line {line}: {where}: {_advice(mistake)}{_nearest(mistake)}")
    return "\n".join(lines)


def _advice(mistake: Any) -> str:
    kind, given = mistake["type"], mistake.get("input")
    if kind == "extra_forbidden":
        moved_to = MOVED.get(".".join(str(part) for part in mistake["loc"]))
        if moved_to is not None:
            return f"this setting is now {moved_to}; set it there and remove this one"
        return "unknown key; remove it, or correct its spelling"
    if kind == "missing":
        return "is missing; add it (git diff params.yaml shows what was removed)"
    if kind == "value_error":
        return str(mistake["msg"]).removeprefix("Value error, ")
    hint = ""
    if kind.startswith("float") and isinstance(given, str) and "e" in given.lower():
        hint = "; YAML reads 1e-3 as text, write 1.0e-3"
    return f"{mistake['msg']}; got {given!r}{hint}"


def _named_key(document: CommentedMap, mistake: Any) -> tuple[int | str, ...]:
    """Where the mistake is: for a contradiction within a block, the first key that it names."""
    location: tuple[int | str, ...] = mistake["loc"]
    node: Any = document
    for part in location:
        if not isinstance(node, CommentedMap) or part not in node:
            return location
        node = node[part]
    if mistake["type"] == "value_error" and isinstance(node, CommentedMap):
        for word in re.findall(r"[a-z_.]+", mistake["msg"]):
            block, _, key = word.rpartition(".")
            if block and block in node and key in node[block]:
                return (*location, block, key)
            if word in node:
                return (*location, word)
    return location


def _nearest(mistake: Any) -> str:
    """For an unknown key, the known one that is spelt most like it."""
    is_moved = ".".join(str(part) for part in mistake["loc"]) in MOVED
    if mistake["type"] != "extra_forbidden" or is_moved:
        return ""
    section: Any = Config
    for part in mistake["loc"][:-1]:
        fields = {field.alias or name: field for name, field in section.model_fields.items()}
        section = fields[part].annotation
    known = [field.alias or name for name, field in section.model_fields.items()]
    close = difflib.get_close_matches(str(mistake["loc"][-1]), known, n=1)
    return f" (did you mean {close[0]}?)" if close else f" (known are: {', '.join(known)})"


def _line_of(document: CommentedMap, location: tuple[int | str, ...]) -> int:
    """Line of the deepest key of location that the file has, counted from 1."""
    node: Any = document
    line = 1
    for part in location:
        if isinstance(node, CommentedMap) and part in node:
            line = node.lc.key(part)[0] + 1
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line = node.lc.item(part)[0] + 1
        else:
            break
        node = node[part]
    return line
