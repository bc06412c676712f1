"""edgeface models: the published files that are known, byte for byte."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .. import zoo
from .arguments import add_command
from .tables import print_rows, print_table, size_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

EPILOG = """\
These need no spec: they are told by their sha256 (--json gives it). easy, medium and hard are the average
precision on WIDER FACE val as each project publishes it, by a protocol of its own: they compare models of one
source only. edgeface downloads nothing: get a file from its source.
"""


def add_parser(commands: Any) -> None:
    text = "list the published models that are known"
    parser = add_command(commands, "models", run, text=text, epilog=EPILOG)
    parser.add_argument("--json", action="store_true", help="print one JSON object for each")


def run(arguments: argparse.Namespace) -> int:
    if arguments.json:
        for published in zoo.MODELS:
            print(json.dumps(_values(published)))
        return 0
    print_table(_rows(), align="<<><<>>>")
    print()
    print_rows(_source_rows())
    return 0


def has_landmarks(published: zoo.Published) -> bool:
    """By the family: files themselves are not here."""
    return published.family != "ultraface"


def _values(published: zoo.Published) -> dict[str, Any]:
    values = asdict(published)
    values["landmarks"] = has_landmarks(published)
    return values


def _rows() -> Iterator[tuple[str, ...]]:
    yield "file", "family", "input", "landmarks", *_AP
    for published in zoo.MODELS:
        yield (
            published.file,
            published.family,
            size_text(*published.size),
            "5" if has_landmarks(published) else "-",
            *(f"{published.ap[name]:.3f}" for name in _AP),
        )


_AP = ("easy", "medium", "hard")


def _source_rows() -> Iterator[tuple[str, str]]:
    """A line for every source."""
    about = {
        (p.family, p.source): f"{p.source} ({p.licence}; trained on {p.training_data}; "
        f"figures: {p.protocol})"
        for p in zoo.MODELS
    }
    for (family, _), text in about.items():
        yield family, text
