"""edgeface models: those that come with it, and the published files that are known, byte for byte."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .. import bundled, model, zoo
from .arguments import add_command
from .tables import print_rows, print_table, size_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from ..model import Model

EPILOG = """\
The first table are models that come with edgeface: FaceDetector("NAME") and --model NAME open them, and * is what
is opened where none is named. Their easy, medium and hard are measured as `edgeface eval` does, on a part of WIDER
FACE val; their cards (NAME.md, beside them) have the protocol.

The second are files that need no spec: they are told by their sha256 (--json gives it). Their easy, medium and hard
are as each project publishes them, on all of WIDER FACE val. edgeface downloads nothing: get a file from its source.

AP compares where the last column is the same: version-RFB-320 has .787 .698 .438 on the whole and .834 .742 .547 on
that part. To compare other models measure both with `edgeface eval`.
"""
_AP = ("easy", "medium", "hard")


def add_parser(commands: Any) -> None:
    text = "list the models that come with edgeface and the published ones that are known"
    parser = add_command(commands, "models", run, text=text, epilog=EPILOG)
    parser.add_argument("--json", action="store_true", help="print one JSON object for each")


def run(arguments: argparse.Namespace) -> int:
    opened = {name: model.load(name) for name in bundled.names()}
    if arguments.json:
        for name, found in opened.items():
            print(json.dumps(_bundled_values(name, found)))
        for published in zoo.MODELS:
            print(json.dumps(_values(published)))
        return 0
    if opened:
        print_table(_bundled_rows(opened), align="<<<>>>><")
        print()
    print_table(_rows(), align="<<><>>><")
    print("\nAP compares where the last column is the same.\n")
    print_rows(_source_rows())
    return 0


def _bundled_values(name: str, found: Model) -> dict[str, Any]:
    card = found.path.with_suffix(".md")
    return {
        "name": name,
        "bundled": True,
        "default": name == bundled.DEFAULT,
        "path": str(found.path),
        "card": str(card) if card.is_file() else None,
        "bytes": found.path.stat().st_size,
        "ap_images": bundled.AP_IMAGES,
        "protocol": bundled.AP_RESIZE,
        "spec": asdict(found.spec),
    }


def _bundled_rows(opened: Mapping[str, Model]) -> Iterator[tuple[str, ...]]:
    yield "name", "input", "landmarks", "bytes", *_AP, "AP on WIDER FACE val"
    for name, found in opened.items():
        spec = found.spec
        yield (
            f"{name} *" if name == bundled.DEFAULT else name,
            size_text(spec.input.width, spec.input.height),
            "-" if spec.heads.landmarks is None else "5",
            f"{found.path.stat().st_size:,}",
            *(f"{spec.ap[one]:.3f}" if one in spec.ap else "-" for one in _AP),
            _protocol_text(bundled.AP_IMAGES, bundled.AP_RESIZE) if spec.ap else "-",
        )


def has_landmarks(published: zoo.Published) -> bool:
    """By the family: files themselves are not here."""
    return published.family != "ultraface"


def _values(published: zoo.Published) -> dict[str, Any]:
    values = asdict(published)
    values["landmarks"] = has_landmarks(published)
    values["ap_images"] = zoo.AP_IMAGES
    return values


def _rows() -> Iterator[tuple[str, ...]]:
    yield "file", "family", "input", "landmarks", *_AP, "AP on WIDER FACE val"
    for published in zoo.MODELS:
        yield (
            published.file,
            published.family,
            size_text(*published.size),
            "5" if has_landmarks(published) else "-",
            *(f"{published.ap[name]:.3f}" for name in _AP),
            _protocol_text(zoo.AP_IMAGES, published.protocol),
        )


def _protocol_text(images: int, resize: str) -> str:
    return f"{images:,} images, {resize}"


def _source_rows() -> Iterator[tuple[str, str]]:
    """A line for every source."""
    about = {
        (p.family, p.source): f"{p.source} ({p.licence}; trained on {p.training_data})"
        for p in zoo.MODELS
    }
    for (family, _), text in about.items():
        yield family, text
