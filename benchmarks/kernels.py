"""How near each kernel comes to what the core can do: every layer of a network alone, on every instruction set.

    python benchmarks/kernels.py version-RFB-320.onnx rfb320-int8.tmfile --markdown kernels.md

First each layer must give on every instruction set what the scalar kernels give: int8 and uint8 the same bytes. Then
instruction sets take turns, round by round, and the best of a layer's runs counts, on one thread. The peak is measured in the
same rounds by peak.c, which needs a C compiler; without one there are times alone.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import machine
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from tqdm import tqdm

from edgeface import _core, model
from edgeface.backends import native
from edgeface.graph import FLOAT32, Conv, Graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PEAK_SOURCE = Path(__file__).with_name("peak.c")
PEAK_FLAGS = {
    "avx2": ("-mavx2", "-mfma"),
    "avx512": ("-mavx512f", "-mavx512bw"),
    "avx512vnni": ("-mavx512f", "-mavx512bw", "-mavx512vnni"),
    "neon": (),
    "neon_dotprod": ("-march=armv8.2-a+dotprod",),
}
RUNS = 20  # of a layer, in each round


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution by itself, and how often the network has one like it."""

    graph: Graph
    count: int

    @property
    def multiply_adds(self) -> int:
        return self.graph.multiply_adds(self.graph.nodes[0])

    @property
    def name(self) -> str:
        """Dense 3x3/2, pointwise or depthwise; from which shape to how many channels."""
        node = self.graph.nodes[0]
        assert isinstance(node.op, Conv)
        _, channels, height, width = self.graph.tensors[self.graph.input].shape
        outputs, _, taps, _ = self.graph.tensors[node.inputs[1]].shape
        kind = "pointwise" if taps == 1 else "depthwise" if node.op.groups > 1 else "dense"
        window = "" if taps == 1 else f" {taps}x{taps}"
        stride = "" if node.op.stride == (1, 1) else f" /{node.op.stride[0]}"
        dilation = "" if node.op.dilation == (1, 1) else f" dilated {node.op.dilation[0]}"
        return f"{kind}{window}{stride}{dilation}, {height}x{width}x{channels} to {outputs}"


def layers_of(graph: Graph) -> list[Layer]:
    """One of each kind of convolution, in the network's order."""
    singles = []
    for node in graph.nodes:
        if isinstance(node.op, Conv):
            tensors = {name: graph.tensors[name] for name in (*node.inputs, node.output)}
            singles.append(Graph((node,), tensors, node.inputs[0], (node.output,)))
    counts = Counter(Layer(single, 1).name for single in singles)
    first = {Layer(single, 1).name: single for single in reversed(singles)}
    return [Layer(first[name], count) for name, count in counts.items()]


def check(layer: Layer, isas: Sequence[str]) -> None:
    """AssertionError where an instruction set computes something else than the scalar kernels."""
    expected = output(layer, "scalar")
    for isa in isas:
        found = output(layer, isa)
        if expected.dtype != FLOAT32:
            assert_array_equal(found, expected, err_msg=f"{layer.name} on {isa}")
        else:
            atol = 1e-6 * float(np.abs(expected).max())
            assert_allclose(found, expected, rtol=1e-4, atol=atol, err_msg=f"{layer.name} on {isa}")


def output(layer: Layer, isa: str) -> NDArray[Any]:
    engine = opened(layer, isa)
    engine.run()
    return np.array(engine.output(layer.graph.outputs[0]))


def opened(layer: Layer, isa: str) -> _core.Engine:
    """With the same noise in its input each time."""
    engine = _core.Engine(native.lower(layer.graph), num_threads=1, isa=isa)
    values = engine.input()
    random = np.random.default_rng(0)
    if values.dtype == FLOAT32:
        values[...] = random.normal(size=values.shape)
    else:
        values[...] = random.integers(0, 127, values.shape)
    return engine


def compiled_peak(isa: str, folder: Path) -> ctypes.CDLL | None:
    compiler = os.environ.get("CC") or shutil.which("cc")
    if isa not in PEAK_FLAGS or compiler is None:
        return None
    library = folder / f"{isa}.so"
    flags = ("-O2", "-shared", "-fPIC", *PEAK_FLAGS[isa])
    subprocess.run((compiler, *flags, str(PEAK_SOURCE), "-o", str(library)), check=True)
    return ctypes.CDLL(str(library))


def peak(library: ctypes.CDLL | None, precision: str) -> float:
    """Multiply-adds a second, best of some; 0 without a library."""
    if library is None:
        return 0.0
    function = getattr(library, f"peak_{precision}")
    function.restype = ctypes.c_double
    return max(float(function()) for _ in range(RUNS))


def measure(path: Path, isas: Sequence[str], rounds: int) -> dict[str, Any]:
    """Seconds of every layer by instruction set, and the peaks of the same rounds."""
    graph = model.read_graph(path)[1]
    layers = layers_of(graph)
    for layer in tqdm(layers, desc="checking", unit="layer", leave=False):
        check(layer, isas)
    precision = "float32" if graph.tensors[graph.input].dtype == FLOAT32 else "int8"
    engines = {isa: [opened(layer, isa) for layer in layers] for isa in isas}
    seconds = {isa: [math.inf] * len(layers) for isa in isas}
    with tempfile.TemporaryDirectory() as folder:
        libraries = {isa: compiled_peak(isa, Path(folder)) for isa in isas}
        peaks = dict.fromkeys(isas, 0.0)
        for _ in tqdm(range(rounds), desc=path.name, unit="round", leave=False):
            for isa in isas:
                peaks[isa] = max(peaks[isa], peak(libraries[isa], precision))
                found = [sum(engine.profile(RUNS)) for engine in engines[isa]]
                seconds[isa] = [min(pair) for pair in zip(seconds[isa], found)]
    rows = [
        {
            "layer": layer.name,
            "count": layer.count,
            "multiply_adds": layer.multiply_adds,
            "seconds": {isa: seconds[isa][i] for isa in isas},
        }
        for i, layer in enumerate(layers)
    ]
    return {"model": path.name, "precision": precision, "peak": peaks, "layers": rows}


def markdown(result: dict[str, Any]) -> str:
    isas = list(result["peak"])
    columns = [f"{isa}: us" + (" (peak)" if result["peak"][isa] else "") for isa in isas]
    lines = [
        f"### {result['model']}, {result['precision']}, layers alone",
        "",
        "Peaks in 10^9 multiply-adds a second: "
        + ", ".join(f"{isa} {result['peak'][isa] / 1e9:.0f}" for isa in isas if result["peak"][isa])
        + ".",
        "",
        f"| layer | times | M multiply-adds | {' | '.join(columns)} |",
        "|---|--:|--:|" + "--:|" * len(isas),
    ]
    for row in (*result["layers"], total(result)):
        cells = [cell(row, isa, result["peak"][isa]) for isa in isas]
        lines.append(
            f"| {row['layer']} | {row['count']} | {row['multiply_adds'] / 1e6:.2f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def total(result: dict[str, Any]) -> dict[str, Any]:
    rows = result["layers"]
    return {
        "layer": "all",
        "count": sum(row["count"] for row in rows),
        "multiply_adds": sum(row["count"] * row["multiply_adds"] for row in rows),
        "seconds": {
            isa: sum(row["count"] * row["seconds"][isa] for row in rows) for isa in result["peak"]
        },
    }


def cell(row: dict[str, Any], isa: str, fastest: float) -> str:
    seconds = row["seconds"][isa]
    share = f" ({row['multiply_adds'] / seconds / fastest:.0%})" if fastest else ""
    return f"{seconds * 1e6:.1f}{share}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--isas", default=",".join(i for i in _core.isas() if i != "scalar"))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--markdown", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    results = [measure(p, arguments.isas.split(","), arguments.rounds) for p in arguments.models]
    text = "\n\n".join(markdown(result) for result in results) + "\n"
    print(text, end="")
    if arguments.markdown is not None:
        arguments.markdown.write_text(text, encoding="utf-8")
    if arguments.json is not None:
        report = {"machine": machine.describe(), "results": results}
        arguments.json.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
