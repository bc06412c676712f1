"""edgeface train quantize: a checkpoint in int8, which learns on with rounded values."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import convert, model, quantization
from .arguments import FAILED, add_command, parse_count
from .console import Console
from .tables import count_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from ..graph import Graph
    from ..quantization import Calibrated
    from ..spec import ModelSpec
    from ..train.samples import Sample

EPILOG = """\
CHECKPOINT is a run's checkpoint.pt, OUT a .tmfile, whose spec goes beside it, or an .onnx. The network is
quantised as `edgeface quantize` does, on images of the data, and then learns to say what it said in float32, on
images as in the run's last stage, with every weight and value rounded as the engine rounds them. Labels are not
looked at: they would move a network that has ended its run much further than rounding has.
At the end it says what AP is on the images that the run held out: in float32, in int8, and in int8 having learnt.
Try `edgeface quantize` first, which costs little in AP with networks of ours: one of AP .8231 .7075 .4647 in float32 had
.8217 .7069 .4625 in int8, and .8223 .7065 .4641 after 32 steps on 247 images, 100 of them those of the calibration.
Nothing is written, the noisiest layers are named, and the exit status is 1, when it finds other faces than float32 on the
images calibrated with.
"""
# As of `edgeface quantize`; biases that were learnt from there are right for rounded weights.
BEFORE = quantization.Rounding()
ROUNDING = dataclasses.replace(BEFORE, correct_biases=False)


def add_parser(commands: Any) -> None:
    text = "write a checkpoint in int8, learning on"
    parser = add_command(commands, "quantize", run, text=text, epilog=EPILOG)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("target", type=Path, metavar="OUT", help="a .tmfile or .onnx")
    parser.add_argument(
        "--data", nargs="+", type=Path, required=True, metavar="PATH", help="as of train run"
    )
    parser.add_argument(
        "--epochs", type=float, default=2.0, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument("--rate", type=float, metavar="R", help="Adam's, at its start")
    parser.add_argument(
        "--samples",
        type=parse_count,
        default=100,
        metavar="N",
        help="images to calibrate with (default: %(default)s)",
    )
    parser.add_argument(
        "--limit", type=parse_count, metavar="N", help="only N images, from all over"
    )
    parser.add_argument("--device", metavar="NAME", help="cpu or cuda (default: cuda where it is)")
    parser.add_argument(
        "--num-threads", type=parse_count, metavar="N", help="default: the CPUs allowed, at most 4"
    )
    parser.add_argument("--silence", action="store_true", help="as of train export")
    parser.add_argument(
        "--force", action="store_true", help="write what disagrees, and replace OUT and its .json"
    )


def run(arguments: argparse.Namespace) -> int:
    from .train import chosen_device, import_torch, load_data, opened_pictures

    torch = import_torch()
    from ..cpu import default_num_threads
    from ..train import checkpoint, judge, quantized

    convert.check_target(arguments.checkpoint, arguments.target, force=arguments.force)
    torch.set_num_threads(arguments.num_threads or default_num_threads())
    device = chosen_device(arguments.device)
    config, _ = checkpoint.read(arguments.checkpoint)
    console = Console()
    console.start_bars()
    kept, held_out = judge.split(load_data(arguments.data, arguments.limit), config.held_out)
    print(f"{count_of(len(kept), 'image')} to learn from, {len(held_out)} held out", flush=True)
    every = max(1, len(kept) // arguments.samples)
    chosen = {sample.name: sample.read() for sample in kept[::every][: arguments.samples]}
    frames = list(chosen.values())
    opened, calibrated = _calibrated(arguments.checkpoint, chosen, silences=arguments.silence)
    _judge("float32", opened.graph, opened.spec, held_out)
    before = quantization.rounded_graph(
        calibrated.graph, calibrated.ranges, calibrated.statistics, BEFORE
    )
    _judge("int8", before, calibrated.spec, held_out)
    network = quantized.RoundedNetwork(calibrated, BEFORE).to(device)
    teacher = quantized.RoundedNetwork(calibrated, BEFORE, rounds=False).to(device)
    steps = quantized.learn(
        network,
        teacher,
        config,
        kept,
        opened_pictures(kept, device, console),
        epochs=arguments.epochs,
        rate=arguments.rate or quantized.RATE,
    )
    for number, (done, cost) in enumerate(steps, 1):
        if number % _REPORT_STEPS == 0 or done == 1:
            print(f"{done:4.0%} step {number}: loss {cost:.3f}", flush=True)
    after = quantization.rounded_graph(
        network.learnt(), calibrated.ranges, calibrated.statistics, ROUNDING
    )
    _judge("int8, having learnt", after, calibrated.spec, held_out)
    return _write(after, calibrated, frames, arguments)


_REPORT_STEPS = 20
_COMPARED = 3  # images, besides noise, with PyTorch; as `train run` does


def _calibrated(
    checkpoint: Path, chosen: Mapping[str, Any], *, silences: bool
) -> tuple[Any, Calibrated]:
    from ..train.export import export

    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder, "float32.tmfile")
        compared = dict(itertools.islice(chosen.items(), _COMPARED))
        export(checkpoint, exported, frames=compared, silences=silences)
        opened = model.load(exported)
    return opened, quantization.calibrate(opened, list(chosen.values()), quantization.Options())


def _judge(what: str, graph: Graph, spec: ModelSpec, held_out: Sequence[Sample]) -> None:
    from ..detector import FaceDetector
    from ..train import judge

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "judged.tmfile")
        convert.save(graph, dataclasses.replace(spec, sha256=None), path, force=False)
        with FaceDetector(path, **judge.DETECTOR_OPTIONS) as detector:
            ap = judge.average_precision(detector, held_out)
    if ap is not None:
        print(f"AP {ap:.4f} in {what}", flush=True)


def _write(
    graph: Graph, calibrated: Calibrated, frames: Sequence[Any], arguments: argparse.Namespace
) -> int:
    spec = dataclasses.replace(calibrated.spec, ap={}, sha256=None)
    agreement = quantization.compare(calibrated.graph, graph, spec, frames)
    refusal = quantization.refusal(agreement, quantization.Limits())
    for line in refusal:
        print(line)
    if refusal and not arguments.force:
        print(f"{arguments.target} is not written; --force writes it all the same")
        return FAILED
    size, sidecar = convert.save(graph, spec, arguments.target, force=arguments.force)
    print(f"wrote {arguments.target}: {size:,} bytes")
    print(f"spec {sidecar or 'inside ' + str(arguments.target)}")
    return 0 if not refusal else FAILED
