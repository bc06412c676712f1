"""Writes the networks in the form of every runtime, in float32 and int8, with the runtimes' own tools from PyPI.

    python benchmarks/convert_peers.py version-*.onnx --images photographs/ --output peers/

Each tool reads the ONNX file that edgeface writes (no constant is an input, BatchNorm folded) and quantises with
the same photographs. Tools that are not installed are named and left out: run it again elsewhere, into the
same folder, for the rest.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import shutil
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import peers
import peers.photographs

from edgeface import model
from edgeface.formats import onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """A network to convert."""

    onnx: Path  # as edgeface writes it
    target: Path  # the file to write
    images: list[Floats]  # (1, 3, H, W), preprocessed
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def name(self) -> str:
        """Of its input."""
        return onnx.read(self.onnx.read_bytes()).input

    def sibling(self, suffix: str) -> Path:
        return self.onnx.with_name(self.onnx.stem + suffix)


def main() -> None:
    args = arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    for path in args.models:
        opened = model.load(path)
        clean = args.output / f"{path.stem}.onnx"
        clean.write_bytes(onnx.write(opened.graph))
        images = [image for _, image in peers.photographs.read(args.images, opened.spec)]
        for tool in (t for t in TOOLS if t.precision in args.precisions):
            target = clean.with_name(clean.stem + tool.suffix)
            entry = opened.spec.input
            source = Source(clean, target, images, tuple(entry.mean), tuple(entry.scale))
            print(f"{target.name:32} {attempt(tool, source)}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--images", required=True, type=Path, help="photographs to calibrate with")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    parser.add_argument(
        "--precisions", nargs="+", choices=peers.PRECISIONS, default=peers.PRECISIONS
    )
    return parser.parse_args()


class Tool(NamedTuple):
    """Of a runtime, to write its files."""

    suffix: str  # of the file that it writes
    needs: tuple[str, ...]  # modules
    convert: Callable[[Source], None]

    @property
    def precision(self) -> str:
        return "int8" if ".int8" in self.suffix else "fp32"


def attempt(tool: Tool, source: Source) -> str:
    """What came of it; a tool may take its process down."""
    missing = [name for name in tool.needs if importlib.util.find_spec(name) is None]
    if missing:
        return f"not written: {', '.join(missing)} is not installed"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        problem = pool.submit(tool.convert, source).exception()
    if problem is not None:
        return f"not written: {type(problem).__name__}: {problem}"
    return f"{source.target.stat().st_size} bytes"


# --- Float32 ---------------------------------------------------------------------------------------


def to_ncnn(source: Source) -> None:
    """By pnnx, which fuses activations into convolutions, as the released .param does not."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(source.onnx, Path(folder) / "net.onnx")
        shape = ",".join(map(str, source.images[0].shape))
        # Its Python module wants PyTorch, which the program in the package does not.
        (root,) = importlib.util.find_spec("pnnx").submodule_search_locations
        command = [Path(root) / "pnnx", copy, f"inputshape=[{shape}]", "fp16=0"]
        subprocess.run(command, check=True, capture_output=True)
        shutil.move(Path(folder) / "net.ncnn.param", source.target)
        shutil.move(Path(folder) / "net.ncnn.bin", source.target.with_suffix(".bin"))


def to_mnn(source: Source) -> None:
    # Not MNN.tools.mnnconvert: importing that has pip install a logging client, and reports to it.
    import _tools

    arguments = ["-f", "ONNX", "--modelFile", source.onnx, "--MNNModel", source.target]
    _tools.mnnconvert(["mnnconvert", *map(str, arguments), "--bizCode", "none"])


def to_tflite(source: Source) -> None:
    """litert-torch converts PyTorch modules, so the graph becomes one."""
    import litert_torch
    from peers.torch_module import TorchModule

    module = TorchModule(onnx.read(source.onnx.read_bytes())).eval()
    channels_last = litert_torch.to_channel_last_io(module, args=[0]).eval()
    example = module.example().permute(0, 2, 3, 1).contiguous()
    litert_torch.convert(channels_last, (example,)).export(str(source.target))


# --- int8 ------------------------------------------------------------------------------------------


def to_qdq(source: Source) -> None:
    """Per-channel int8 weights and uint8 activations, which its fast x86 kernels want."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._rest = iter(source.images)

        def get_next(self) -> dict[str, Floats] | None:
            image = next(self._rest, None)
            return None if image is None else {source.name: image}

    quantization.quantize_static(
        str(source.onnx),
        str(source.target),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


def to_openvino(source: Source) -> None:
    import nncf
    import openvino

    network = openvino.Core().read_model(source.onnx)
    calibration = nncf.Dataset(source.images)
    quantized = nncf.quantize(
        network,
        calibration,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(source.images),
    )
    openvino.save_model(quantized, source.target, compress_to_fp16=False)


def to_int8_mnn(source: Source) -> None:
    """MNN prepares pictures itself, so it gets ones of the input's size."""
    import _tools

    with tempfile.TemporaryDirectory() as folder:
        peers.photographs.write(folder, source.images, source.mean, source.scale)
        _, _, height, width = source.images[0].shape
        config = {
            "format": "RGB",
            "mean": source.mean,
            "normal": source.scale,
            "width": width,
            "height": height,
            "path": f"{folder}/",
            "used_image_num": len(source.images),
            "feature_quantize_method": "KL",
            "weight_quantize_method": "MAX_ABS",
            "model": str(source.sibling(".mnn")),
        }
        # Outside: it takes every file in the folder for a picture.
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(config, file)
            file.flush()
            files = [source.sibling(".mnn"), source.target, file.name]
            _tools.mnnquant(["mnnquant", *map(str, files)])


def to_int8_tflite(source: Source) -> None:
    from ai_edge_quantizer import quantizer, recipe

    tool = quantizer.Quantizer(str(source.sibling(".tflite")))
    tool.load_quantization_recipe(recipe.static_wi8_ai8())
    name, samples = _signature(source)
    result = tool.quantize(tool.calibrate({name: list(samples)}))
    source.target.write_bytes(result.quantized_model)


def _signature(source: Source) -> tuple[str, Iterator[dict[str, Any]]]:
    """The name of the file's one function, and its arguments for every photograph."""
    from ai_edge_litert.interpreter import Interpreter

    signatures = Interpreter(str(source.sibling(".tflite"))).get_signature_list()
    ((name, ports),) = signatures.items()
    (port,) = ports["inputs"]
    return name, ({port: image.transpose(0, 2, 3, 1).copy()} for image in source.images)


# Quantisers of .mnn and .tflite read the file that the line before wrote.
TOOLS = (
    Tool(".ncnn.param", ("pnnx",), to_ncnn),
    Tool(".mnn", ("MNN",), to_mnn),
    Tool(".int8.mnn", ("MNN",), to_int8_mnn),
    Tool(".tflite", ("litert_torch",), to_tflite),
    Tool(".int8.tflite", ("ai_edge_quantizer",), to_int8_tflite),
    Tool(".int8.onnx", ("onnxruntime", "onnx"), to_qdq),
    Tool(".int8.xml", ("openvino", "nncf"), to_openvino),
)


if __name__ == "__main__":
    main()
