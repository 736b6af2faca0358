"""`vivero lineage`: where something comes from, and what was made of it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vivero.config.paths import project_dir
from vivero.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(lineage)


def lineage(
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="models:/vivero@champion, a bundle, or an image."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say which data, code, settings, seed and weights made a model or an image.

    Example: vivero lineage samples/00003-3.png
    """
    import json

    from vivero.registry.lineage_trace import trace

    facts = trace(target, _root_or_none())
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for key, value in _flat(facts).items():
        typer.echo(f"{key + ':':34}{'unknown' if value is None else value}")


def _flat(facts: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return flat


def _root_or_none() -> Path | None:
    try:
        return project_dir()
    except ConfigError:
        return None
