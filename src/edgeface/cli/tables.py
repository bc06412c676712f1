"""What the commands print, as lines and as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ..faces import Faces


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}".rstrip())


def print_table(rows: Iterable[tuple[str, ...]], *, align: str) -> None:
    """Columns as wide as their widest cell; `align` has < or > for each."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = (f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths))
        print("  ".join(cells).rstrip())


def face_lines(title: str, faces: Faces) -> Iterator[str]:
    yield f"{title}: {count_of(len(faces), 'face')}"
    for face in faces:
        box = f"{face.x1:.1f} {face.y1:.1f} {face.x2:.1f} {face.y2:.1f}"
        yield f"  score {face.score:.3f}  box {box}  ({face.width:.0f}x{face.height:.0f})"


def conditions_text(values: Mapping[str, Any]) -> str:
    """Of what `bench.conditions` gives, as a dictionary."""
    heat = ", ".join(f"{zone} {degrees:.1f} C" for zone, degrees in values["temperatures"].items())
    speeds = sorted(set(values["megahertz"]))
    governors = sorted(set(values["governors"]))
    texts = [
        heat or "no temperature to be read",
        f"{'/'.join(map(str, speeds))} MHz" if speeds else "no frequency to be read",
        *(["/".join(governors)] if governors else []),
        *([] if values["load"] is None else [f"load {values['load']:.2f}"]),
    ]
    return "; ".join(texts)


def count_of(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def size_text(width: float, height: float) -> str:
    return f"{width:.0f}x{height:.0f}"


def squeezed(text: str) -> str:
    """On one line: some runtimes explain themselves in several."""
    return " ".join(text.split())
