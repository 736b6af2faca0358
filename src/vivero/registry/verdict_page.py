"""A verdict for people: a table for the terminal, and the same as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

MARKS = {True: "pass", False: "FAIL", None: "open"}
LETS_PASS = ("first", "promote")
MEANING = {
    "first": "may become the first champion",
    "promote": "may become champion: better beyond chance, and in nothing else worse",
    "champion": "it is the champion, and breaks no limit",
    "hold": "the champion stays: what is open below is not decided",
    "reject": "the champion stays: what fails below is worse than allowed",
}


def verdict_table(verdict: Mapping[str, Any]) -> Table:
    """The gates of verdict.json, one a row."""
    table = Table("gate", "", "gain or value", "asked for", "why", title=headline(verdict))
    for gate in verdict["gates"]:
        table.add_row(gate["name"], MARKS[gate["passed"]], found(gate), asked(gate), gate["reason"])
    return table


def verdict_markdown(verdict: Mapping[str, Any]) -> str:
    """The same, as verdict.md."""
    rows = [
        (gate["name"], MARKS[gate["passed"]], found(gate), asked(gate), gate["reason"])
        for gate in verdict["gates"]
    ]
    is_plotted = is_compared(verdict)
    gain = "A gain is how much better the candidate is than the champion, with its interval."
    return "\n".join(
        [
            f"# {headline(verdict)}",
            "",
            *([gain, ""] if is_plotted else []),
            _line(("gate", "", "gain or value", "asked for", "why")),
            _line(("---",) * 5),
            *(_line(row) for row in rows),
            "",
            "![Gains with intervals and margins](verdict.png)" if is_plotted else "",
            "",
        ]
    )


def headline(verdict: Mapping[str, Any]) -> str:
    """What was decided, in a line."""
    number = verdict.get("champion")
    champion = "there is no champion" if number is None else f"against version {number}"
    if verdict.get("is_champion_itself"):
        champion = f"of version {number} itself"
    name = str(verdict["verdict"])
    return f"Verdict '{name}' ({champion}): {MEANING[name]}"


def found(gate: Mapping[str, Any]) -> str:
    """The value of a gate, or the gain with its interval."""
    if gate["value"] is None:
        return ""
    if gate.get("low") is None:
        return f"{gate['value']:.4g}"
    return f"{gate['value']:.3g} [{gate['low']:.3g}, {gate['high']:.3g}]"


def asked(gate: Mapping[str, Any]) -> str:
    """What a gate asked for."""
    if gate["limit"] is None:
        return ""
    return f">= {gate['limit']:.3g}" if gate.get("low") is not None else f"{gate['limit']:.4g}"


def is_compared(verdict: Mapping[str, Any]) -> bool:
    """Whether any gate compares with a champion."""
    return any(gate.get("low") is not None for gate in verdict["gates"])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
