"""edgeface info: what a model is and what runs it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import summary, zoo
from .arguments import EXAMPLE_FRAME, add_command, add_spec_and_size, given_options, parse_size
from .tables import print_rows, print_table, size_text, squeezed

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from ..backends.native import PlannedStep


def add_parser(commands: Any) -> None:
    parser = add_command(commands, "info", run, text="show what a model is and what runs it")
    parser.add_argument("model", type=Path, metavar="MODEL", help="a .tmfile, .onnx, .pth or .pt")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--layers", action="store_true", help="list every layer too")
    parser.add_argument(
        "--plan",
        type=int,
        nargs="?",
        const=1,
        metavar="THREADS",
        help="show how the native engine runs it (on one thread): what runs together, and which "
        "values go to memory and back",
    )
    add_spec_and_size(parser)
    parser.add_argument(
        "--frame-size",
        type=parse_size,
        default=EXAMPLE_FRAME,
        metavar="WxH",
        help="tell which faces it is for in frames of that size "
        f"(default: {size_text(*EXAMPLE_FRAME)})",
    )
    parser.add_argument(
        "--write-spec",
        choices=zoo.FAMILIES,
        metavar="FAMILY",
        help="instead, write the .json beside MODEL that says what networks of a family "
        f"({', '.join(zoo.FAMILIES)}) were trained with, to be edited; an existing one stays",
    )


def run(arguments: argparse.Namespace) -> int:
    given = given_options(arguments)
    if arguments.write_spec is not None:
        if given:
            raise ValueError("--write-spec describes the file as it is; it takes no other option")
        return _write_spec(arguments.model, arguments.write_spec)
    found = summary.summarise(arguments.model, plan_threads=arguments.plan, **given)
    if arguments.json:
        print(json.dumps(_values(found, with_layers=arguments.layers)))
        return 0
    print_rows(_file_rows(found))
    print()
    print_rows(_spec_rows(found, arguments.frame_size))
    if arguments.layers:
        print()
        print_table(_layer_rows(found), align="<<<>")
    if found.plan is not None:
        print()
        print_table(_plan_rows(found.plan), align=">><<>>")
        print(_plan_total(found.plan))
    return 0


def _write_spec(path: Path, family: str) -> int:
    sidecar = summary.write_spec(path, family)
    print(f"wrote {sidecar}: edit it where this network differs from {family}")
    problem = summary.summarise(path).spec_problem
    if problem is not None:
        print(f"it does not fit yet: {problem}")
    return 0


def _values(found: summary.Summary, *, with_layers: bool) -> dict[str, Any]:
    values = asdict(found)
    values["multiply_adds"] = found.multiply_adds
    values["layer_counts"] = found.layer_counts
    values["priors"] = sum(level.priors for level in found.levels)
    if not with_layers:
        del values["layers"]
    if found.plan is None:
        del values["plan"]
    return values


def _file_rows(found: summary.Summary) -> Iterator[tuple[str, str]]:
    yield "file", found.file
    yield "size", f"{found.bytes:,} bytes, sha256 {found.sha256}"
    yield "format", f"{found.format}, {found.precision}"
    yield "input", _port_text(found.input)
    for port in found.outputs:
        yield "output", _port_text(port)
    counts = ", ".join(f"{count} {kind}" for kind, count in found.layer_counts.items())
    yield "layers", f"{len(found.layers)}: {counts}"
    yield "weights", f"{found.weights:,} in {found.weight_bytes:,} bytes"
    yield "multiply-adds", f"{found.multiply_adds / 1e6:.1f} M"
    for support in found.backends:
        runs = "runs it" if support.isa is None else f"runs it with {support.isa} kernels"
        if support.discouraged is not None:
            runs += f", but only when asked for by name: {squeezed(support.discouraged)}"
        refused = "" if support.refusal is None else f"no: {squeezed(support.refusal)}"
        yield f"backend {support.backend}", refused or runs


def _port_text(port: summary.Port) -> str:
    return f"{port.name} {'x'.join(map(str, port.shape))} {port.dtype}"


def _spec_rows(found: summary.Summary, frame: tuple[int, int]) -> Iterator[tuple[str, str]]:
    if found.spec is None:
        yield "spec", f"none: {found.spec_problem}"
        return
    yield "spec", f"from {found.spec_source}"
    if found.spec_problem is not None:
        yield "", f"which does not fit: {found.spec_problem}"
    yield from _fields("", asdict(found.spec))
    scale = summary.frame_scale(found.spec, *frame)
    for level in found.levels:
        text = f"{level.priors} priors: {level.columns}x{level.rows} x {len(level.min_sizes)} min_sizes"
        if level.dispensable_from is not None:
            text += f"; not needed from --min-face {math.ceil(level.dispensable_from * scale)} on"
        yield f"stride {level.stride}", text
    yield "priors", str(sum(level.priors for level in found.levels))
    faces = summary.face_sizes(found.spec, *frame)
    if faces is not None:
        sizes = " to ".join(size_text(*size) for size in faces)
        yield "faces", f"about {sizes} pixels in a frame of {size_text(*frame)}"


def _fields(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every field of the spec by the name that it has in its JSON."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _fields(f"{prefix}{name}.", value)
        else:
            yield f"  {prefix}{name}", _value_text(value)


def _value_text(value: object) -> str:
    if isinstance(value, (tuple, list)):
        separator = "; " if any(isinstance(item, (tuple, list)) for item in value) else ", "
        return separator.join(map(_value_text, value))
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value is None or value == {} else str(value)


def _layer_rows(found: summary.Summary) -> Iterator[tuple[str, ...]]:
    yield "kind", "name", "output", "multiply-adds"
    for layer in found.layers:
        yield layer.kind, layer.name, "x".join(map(str, layer.shape)), f"{layer.multiply_adds:,}"


def _plan_rows(steps: Iterable[PlannedStep]) -> Iterator[tuple[str, ...]]:
    yield "chain", "step", "kind", "output", "rows held", "bytes held"
    for step in steps:
        rows = "all" if step.is_whole else str(step.rows)
        shape = "x".join(map(str, step.shape))
        yield str(step.chain), step.name, step.kind, shape, rows, f"{step.rows * step.row_bytes:,}"


def _plan_total(steps: Iterable[PlannedStep]) -> str:
    steps = list(steps)
    whole = sum(step.bytes for step in steps if step.is_whole)
    every = sum(step.bytes for step in steps)
    return f"written to memory in a frame: {whole:,} bytes; without chains {every:,}"
