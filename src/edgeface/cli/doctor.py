"""edgeface doctor: what this machine is, and what works on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import doctor
from .arguments import FAILED, add_command
from .tables import conditions_text, count_of, print_rows, squeezed

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

EPILOG = """\
The self-test runs two small convolutions whose results are known with the kernels of every instruction
set that this CPU has. "time" is a median of one second in all, of detects in frames of 640x480 (without any
model, of the layers of slim-320); `edgeface bench` measures at length. What cannot be found out has the
reason in its place. The exit status is 1 where a self-test fails or EDGEFACE_ISA names what is not here.
"""


def add_parser(commands: Any) -> None:
    text = "show what this machine is and what works on it"
    parser = add_command(commands, "doctor", run, text=text, epilog=EPILOG)
    parser.add_argument(
        "model",
        nargs="?",
        type=Path,
        metavar="MODEL",
        help="what to time instead of the model that comes with edgeface",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    found = doctor.examine(arguments.model)
    if arguments.json:
        print(json.dumps(found))
    else:
        print_rows((name, squeezed(text)) for name, text in _rows(found))
    return 0 if doctor.is_sound(found) else FAILED


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("edgeface", "machine", "features", "isas", "isa", "self_test"):
        yield name.replace("_", "-"), _text(found[name])
    yield from _clusters(found["clusters"])
    yield "threads", _threads_text(found["threads"])
    conditions = found["conditions"]
    yield "conditions", _text(conditions) if "error" in conditions else conditions_text(conditions)
    yield "memory", _memory_text(found["memory"])
    for name in ("system", "libc", "python"):
        yield name, _text(found[name])
    yield "packages", _packages_text(found["packages"])
    yield from _items("backend", found["backends"])
    yield "tengine", _text(found["tengine"])
    environment = found["environment"]
    yield "environment", _text(environment) if environment else "no EDGEFACE_ variable is set"
    yield "time", _times_text(found["times"])


def _clusters(values: Any) -> Iterator[tuple[str, str]]:
    if "error" in values:
        yield "clusters", _text(values)
        return
    for cluster in values:
        speeds = cluster["megahertz"]
        texts = [cluster["name"] or "unknown", cluster["governor"]]
        texts[1:1] = [] if speeds is None else [f"{speeds[0]} to {speeds[1]} MHz"]
        cpus = ",".join(map(str, cluster["cpus"]))
        yield f"cpus {cpus}", ", ".join(text for text in texts if text is not None)


def _times_text(values: dict[str, Any]) -> str:
    if "error" in values:
        return _text(values)
    texts = [
        f"{row['median']:.2f} ms {row['type']} on {count_of(row['threads'], 'thread')}"
        for row in values["milliseconds"]
    ]
    return f"{values['network']}: {', '.join(texts)}"


def _items(name: str, values: dict[str, str]) -> Iterator[tuple[str, str]]:
    """A line each, or the one error."""
    if "error" in values:
        yield f"{name}s", _text(values)
        return
    for key, value in values.items():
        yield f"{name} {key}", value


def _text(value: Any) -> str:
    if isinstance(value, dict):
        if set(value) == {"error"}:
            return f"not known: {value['error']}"
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)


def _threads_text(values: dict[str, Any]) -> str:
    if "error" in values:
        return _text(values)
    quota = values["cgroup_quota"]
    limit = "no cgroup limit" if quota is None else f"cgroup limit {quota}"
    allowed = f"{values['affinity']} allowed of {values['cpus']} CPUs"
    return f"{values['default']} by default ({allowed}, {limit})"


def _packages_text(values: dict[str, Any]) -> str:
    if "error" in values:
        return _text(values)
    return ", ".join(f"{name} {version or '(none)'}" for name, version in values.items())


def _memory_text(values: dict[str, Any]) -> str:
    if "error" in values:
        return _text(values)
    return f"{values['total']:,} MB, {values['available']:,} MB available"
