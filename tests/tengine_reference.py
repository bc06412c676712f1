"""Runs a tmfile in the real Tengine: EDGEFACE_TENGINE_LIBRARY names libtengine-lite.so.

Tengine checks nothing that it loads and can kill or corrupt its process, so it gets one of its own:
this file, run as a program.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

LIBRARY = "EDGEFACE_TENGINE_LIBRARY"
DTYPES = [np.float32, np.float16, np.int8, np.uint8, np.int32]  # by Tengine's number
# Of the network's type. Any other than its own overruns buffers.
PRECISIONS = {np.float32: 0, np.uint8: 3, np.int8: 4}


class TengineError(Exception):
    """The library refused the file or died of it."""


def run(model, frames):
    """The outputs for each frame, in the file's order: a list for each frame.

    A frame is an array of the network's input shape and type; all frames have one shape, which the
    network takes over where it is another than that in the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("model.tmfile", "frames.npy", "outputs.npz")]
        paths[0].write_bytes(model)
        np.save(paths[1], np.stack(frames))
        command = [sys.executable, __file__, os.environ[LIBRARY], *map(str, paths)]
        child = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if child.returncode != 0:
            raise TengineError(f"exit status {child.returncode}: {child.stderr[-2000:]}")
        with np.load(paths[2]) as outputs:
            count = len(outputs.files) // len(frames)
            return [[outputs[f"{i}.{o}"] for o in range(count)] for i in range(len(frames))]


class _Options(ctypes.Structure):
    """By value, 24 bytes on every platform."""

    _fields_ = (
        ("num_thread", ctypes.c_int),
        ("cluster", ctypes.c_int),
        ("precision", ctypes.c_int),
        ("affinity", ctypes.c_uint64),
    )


def _bind(path):
    library = ctypes.CDLL(path)
    pointer, number = ctypes.c_void_p, ctypes.c_int
    signatures = {
        "get_graph_input_tensor": (pointer, [pointer, number, number]),
        "get_graph_output_tensor": (pointer, [pointer, number, number]),
        "get_graph_output_node_number": (number, [pointer]),
        "get_tensor_data_type": (number, [pointer]),
        "get_tensor_shape": (number, [pointer, ctypes.POINTER(number), number]),
        "set_tensor_shape": (number, [pointer, ctypes.POINTER(number), number]),
        "get_tensor_buffer": (pointer, [pointer]),
        "get_tensor_buffer_size": (number, [pointer]),
        "set_tensor_buffer": (number, [pointer, pointer, number]),
        "prerun_graph_multithread": (number, [pointer, _Options]),
        "run_graph": (number, [pointer, number]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.create_graph.restype = pointer  # variadic: no argtypes
    return library


class _Graph:
    """A file loaded and made ready for frames of one shape."""

    def __init__(self, library, path, frame):
        self.library = library
        _check(library.init_tengine(), "init_tengine")
        self.graph = ctypes.c_void_p(library.create_graph(None, b"tengine", path.encode()))
        if not self.graph:
            raise TengineError("create_graph gave NULL")
        source = library.get_graph_input_tensor(self.graph, 0, 0)
        dtype = DTYPES[library.get_tensor_data_type(source)]
        if frame.dtype != dtype:
            raise TengineError(f"the input is {np.dtype(dtype)}, the frames are {frame.dtype}")
        shape = (ctypes.c_int * frame.ndim)(*frame.shape)
        _check(library.set_tensor_shape(source, shape, frame.ndim), "set_tensor_shape")
        self.input = np.zeros(frame.shape, dtype)  # Tengine keeps its address
        size = library.get_tensor_buffer_size(source)
        if size != self.input.nbytes:
            raise TengineError(f"the input has {size} bytes, a frame {self.input.nbytes}")
        _check(library.set_tensor_buffer(source, self.input.ctypes.data, size), "set_tensor_buffer")
        options = _Options(num_thread=1, cluster=0, precision=PRECISIONS[dtype], affinity=0)
        _check(library.prerun_graph_multithread(self.graph, options), "prerun_graph_multithread")

    def outputs(self, frame):
        self.input[...] = frame
        _check(self.library.run_graph(self.graph, 1), "run_graph")
        count = self.library.get_graph_output_node_number(self.graph)
        return [self._output(index) for index in range(count)]

    def _output(self, index):
        library, dims = self.library, (ctypes.c_int * 8)()
        tensor = library.get_graph_output_tensor(self.graph, index, 0)
        count = library.get_tensor_shape(tensor, dims, 8)
        size = library.get_tensor_buffer_size(tensor)
        raw = ctypes.string_at(library.get_tensor_buffer(tensor), size)
        dtype = DTYPES[library.get_tensor_data_type(tensor)]
        return np.frombuffer(raw, dtype).reshape(dims[:count])


def _check(status, what):
    if status < 0:
        raise TengineError(f"{what} gave {status}")


def _main(library, model, frames, outputs):
    frames = np.load(frames)
    graph = _Graph(_bind(library), model, frames[0])
    results = [graph.outputs(frame) for frame in frames]
    named = {f"{i}.{o}": v for i, frame in enumerate(results) for o, v in enumerate(frame)}
    np.savez(outputs, **named)
    os._exit(0)  # what Tengine might do when it is torn down tells nothing about the file


if __name__ == "__main__":
    _main(*sys.argv[1:])
