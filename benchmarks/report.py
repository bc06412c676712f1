"""What the races have found, told in JSON and Markdown: cells and sentences that the benchmarks share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from peers import race

    from edgeface import parity

RATIOS = "ratios are medians over rounds, in parentheses those of the shortest runs"


def write(
    result: dict[str, Any], markdown: str, json_path: Path | None, markdown_path: Path | None
) -> None:
    """Where a path is given."""
    for target, content in ((json_path, json.dumps(result, indent=2)), (markdown_path, markdown)):
        if target is not None:
            target.write_text(content + "\n", encoding="utf-8")


def machine_text(described: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in described["packages"].items())
    machine = f"{described['cpu']}, {described['cores']} CPUs, Python {described['python']}"
    return f"{described['date']}, {machine}, {versions}."


def load_values(load: race.Load) -> dict[str, Any]:
    return {**load._asdict(), "problem": load.problem}


def load_text(load: dict[str, Any]) -> str:
    if load["problem"] is None:
        return "The machine was quiet."
    return f"**Provisional: the machine was not quiet; {load['problem']}.**"


def time_cells(times: dict[str, float]) -> list[str]:
    return [
        f"{times['median']:.3f}",
        f"{times['min']:.3f}",
        f"{times['p10']:.3f}-{times['p90']:.3f}",
    ]


def ratio_text(values: dict[str, Any] | None) -> str:
    return "" if values is None else f"{values['median']:.2f} ({values['of_minima']:.2f})"


def faces_text(found: parity.Matched) -> str:
    return f"{found.matched} of {found.counts[0]}" + (
        f", {found.counts[1] - found.matched} more" if found.counts[1] > found.matched else ""
    )
