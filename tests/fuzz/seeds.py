"""Writes a corpus for each target to start from: python tests/fuzz/seeds.py FOLDER [SHARED].

The files are small and made here, out of the tests' own builders. With SHARED, the published
weights in SHARED/weights are added; they are large, and slow to fuzz.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

from edgeface import spec as specs
from edgeface.errors import ModelError
from edgeface.formats import onnx, tmfile

TESTS = Path(__file__).resolve().parents[1]
DTYPES = (np.float32, np.int8, np.uint8)


def tmfiles() -> dict[str, bytes]:
    import tmfile_builder
    from tmfile_graphs import detector, pyramid

    found = {
        np.dtype(dtype).name: tmfile.write(_without_relu6(detector, dtype)) for dtype in DTYPES
    }
    found |= {f"pyramid-{np.dtype(t).name}": tmfile.write(pyramid(t)) for t in DTYPES}
    net = tmfile_builder.FileBuilder()
    data = net.input("input", (1, 2, 4, 4))
    weight = net.const("w", np.ones((2, 2, 1, 1), np.float32))
    conv = net.conv("conv", [data, weight])
    drop = net.op(tmfile_builder.DROPOUT, "drop", [conv])
    total = net.add("sum", [drop, conv])
    relu = net.op(tmfile_builder.RELU, "relu", [total], [0.0])
    permuted = net.op(tmfile_builder.PERMUTE, "permute", [relu], [0, 0, 2, 3, 1])
    rows = net.reshape("rows", [permuted], (1, -1, 2))
    found["built"] = net.build(net.op(tmfile_builder.SOFTMAX, "softmax", [rows], [2])).data
    return found


def onnx_files() -> dict[str, bytes]:
    from tmfile_graphs import Maker, detector, pyramid

    small = Maker(shape=(1, 1, 2, 2))
    small.conv("y", "input", 1, kernel=(1, 1), activation="relu")
    found = {"small": onnx.write(small.graph()), "pyramid": onnx.write(pyramid())}
    for dtype in DTYPES:
        with contextlib.suppress(ModelError):  # a scale that no ONNX runtime takes
            graph = _without_relu6(detector, dtype)
            found[np.dtype(dtype).name] = onnx.write(graph, {"key": "value"})
    return found


def weights() -> dict[str, bytes]:
    """Files, and the bare pickles that readers.around puts into one."""
    from test_torch_weights import Tensor, pickled, save_stream, save_zip

    values = np.arange(24, dtype=np.float32)  # readers.STORAGE_BYTES
    state = {"a": Tensor(values.reshape(4, 3, 2, 1)), "b": Tensor(values, offset=4, shape=(2,))}
    found = {"zip": save_zip(state), "stream": save_stream(state)}
    for protocol in (2, 3, 4):
        found[f"pickle{protocol}"] = pickled({"state_dict": state, "epoch": 3}, protocol)[0]
        found[f"plain{protocol}"] = pickled(state, protocol)[0]
    return found


def spec_files() -> dict[str, bytes]:
    import reference

    spec = reference.detector_spec(reference.detector_graph(landmarks=True))
    full = dataclasses.replace(
        spec, sha256="0" * 64, licence="MIT", training_data="WIDER FACE", ap={"easy": 0.9}
    )
    found = {"plain": specs.to_json(spec).encode(), "full": specs.to_json(full).encode()}
    return found | {"one-line": json.dumps(json.loads(found["plain"])).encode()}


def _without_relu6(detector, dtype):
    """No tmfile holds one."""
    graph = detector(dtype)
    nodes = tuple(
        dataclasses.replace(node, op=dataclasses.replace(node.op, activation="relu"))
        if getattr(node.op, "activation", "") == "relu6"
        else node
        for node in graph.nodes
    )
    return dataclasses.replace(graph, nodes=nodes)


MADE = {"tmfile": tmfiles, "onnx": onnx_files, "torch_weights": weights, "spec": spec_files}
REAL = {"tmfile": "*.tmfile", "onnx": "*.onnx", "torch_weights": "*.pth"}


def main(folder: str, shared: str | None = None) -> None:
    for target, make in MADE.items():
        corpus = Path(folder, target)
        corpus.mkdir(parents=True, exist_ok=True)
        files = make()
        if shared is not None and target in REAL:
            real = sorted(Path(shared, "weights").rglob(REAL[target]))
            files |= {path.name: path.read_bytes() for path in real}
        for name, data in files.items():
            (corpus / name).write_bytes(data)
        print(f"{corpus}: {len(files)} files, {sum(map(len, files.values()))} bytes")


if __name__ == "__main__":
    sys.path.append(str(TESTS))
    main(*sys.argv[1:])
