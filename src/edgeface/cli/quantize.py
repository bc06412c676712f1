"""edgeface quantize: a float32 model in int8."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__, convert, media, model, parity, quantization
from ..evaluation.plots import figure_class
from ..quantization import plots
from ..quantization.pictures import Pictures
from .arguments import FAILED, add_command, add_spec_and_size, given_options, parse_count
from .console import Console
from .tables import count_of, print_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from ..model import Model
    from ..quantization import Agreement, Layer, Options, Quantized

LIMITS = quantization.Limits()

EPILOG = f"""\
IN is a .pth, .pt, .onnx or .tmfile in float32, OUT a .tmfile or .onnx. Its spec goes with it as from `edgeface
convert`, without the published accuracy. The pictures should be such as the model will see, 50 or more, with faces
of all sizes; nothing is learnt from them but how large values get.

Nothing is written, and the exit status is 1, when int8 and float32 disagree on those pictures by more than this:
  {LIMITS.lost:.0%} of the faces are found by one alone, though {quantization.MARGINAL_SCORE} above its score threshold
  scores of matched faces differ by {LIMITS.score} on average, their boxes or landmarks by {LIMITS.box} of the face's size
  a layer has less than {LIMITS.sqnr_db:g} dB of signal over noise
--force writes it all the same.
"""


def add_parser(commands: Any) -> None:
    text = "write a float32 model in int8"
    parser = add_command(commands, "quantize", run, text=text, epilog=EPILOG)
    parser.add_argument("source", type=Path, metavar="IN", help="a .pth, .pt, .onnx or .tmfile")
    parser.add_argument("target", type=Path, metavar="OUT", help="a .tmfile or .onnx")
    parser.add_argument(
        "--images",
        nargs="+",
        type=Path,
        required=True,
        metavar="FILE|DIR|TAR",
        help="pictures to calibrate with and to compare on",
    )
    parser.add_argument(
        "--samples",
        type=parse_count,
        default=100,
        metavar="N",
        help="how many of them, equally far apart (default: %(default)s)",
    )
    add_spec_and_size(parser)
    _add_options(parser)
    parser.add_argument(
        "--force", action="store_true", help="write what disagrees, and replace OUT and its .json"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw each layer's noise there")


def _add_options(parser: argparse.ArgumentParser) -> None:
    method, rounding = quantization.Method(), quantization.Rounding()
    parser.add_argument(
        "--method",
        choices=quantization.METHODS,
        default=method.name,
        help="how the range of each value is chosen (default: %(default)s, the least squared error)",
    )
    parser.add_argument(
        "--percentile",
        type=float,
        default=method.percentile,
        metavar="P",
        help="of magnitudes that --method percentile keeps (default: %(default)s)",
    )
    parser.add_argument(
        "--scale-steps",
        type=int,
        default=rounding.scale_steps,
        metavar="N",
        help="weight scales are rounded up to N an octave, which a .tmfile then shares; 0: leave them "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--keep-softmax",
        action="store_true",
        help="for programs that read scores without the spec: coarser, in steps of 1/127",
    )
    parser.add_argument(
        "--no-equalize", action="store_true", help="leave channels as unequal as they are"
    )
    parser.add_argument(
        "--extra",
        type=float,
        default=quantization.Options().extra,
        metavar="SHARE",
        help="the most multiply-adds to add, as a share of all, for finer steps in the first values "
        "(default: %(default)s; 0: none)",
    )
    parser.add_argument(
        "--no-bias-correction", action="store_true", help="let rounded weights shift means"
    )
    parser.add_argument(
        "--zero-points",
        action="store_true",
        help="twice the steps for what a ReLU makes: finer, but not for Tengine, and so only in an .onnx",
    )


def run(arguments: argparse.Namespace) -> int:
    source, target, force = arguments.source, arguments.target, arguments.force
    options = _options(arguments)
    _check(arguments, options)
    opened = model.load(source, given_options(arguments).get("spec"))
    if "input_size" in arguments:
        opened = opened.resized(*arguments.input_size)
    console = Console()
    found = _quantized(opened, arguments, options, console)
    agreement = found.agreement
    problems = quantization.problems(agreement, LIMITS)
    _print(agreement)
    _write_reports(arguments, options, agreement, problems)
    for line in quantization.refusal(agreement, LIMITS):
        print(line)
    if problems and not force:
        print(f"{target} is not written; --force writes it all the same")
        return FAILED
    is_same = _write(found, target, force=force)
    return 0 if is_same and not problems and not console.failures else FAILED


def _options(arguments: argparse.Namespace) -> Options:
    return quantization.Options(
        method=quantization.Method(arguments.method, arguments.percentile),
        logits=not arguments.keep_softmax,
        equalize=not arguments.no_equalize,
        extra=arguments.extra,
        slopes_apart=arguments.target.suffix.lower() == ".tmfile",
        rounding=quantization.Rounding(
            scale_steps=arguments.scale_steps,
            correct_biases=not arguments.no_bias_correction,
            zero_points=arguments.zero_points,
        ),
    )


def _check(arguments: argparse.Namespace, options: Options) -> None:
    """What would fail after a minute fails now."""
    convert.check_target(arguments.source, arguments.target, force=arguments.force)
    if options.rounding.zero_points and arguments.target.suffix.lower() == ".tmfile":
        raise ValueError(f"{arguments.target}: Tengine has no zero points in int8; write an .onnx")
    media.opencv()
    if arguments.plot is not None:
        figure_class()
        if arguments.plot.suffix.lower() != ".png":
            raise ValueError(f"--plot {arguments.plot}: expected a name that ends in .png")
    if arguments.json == arguments.target.with_suffix(".json"):
        raise ValueError(f"--json {arguments.json}: the spec goes there; expected another name")
    for path in (arguments.json, arguments.plot):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)


def _quantized(
    opened: Model, arguments: argparse.Namespace, options: Options, console: Console
) -> Quantized:
    console.start_bars()
    with Pictures(
        arguments.images,
        arguments.samples,
        on_error=console.failure,
        progress=lambda names: console.progress(names, "picture", len(names)),
    ) as pictures:
        print(f"{len(pictures)} of {count_of(pictures.found, 'picture')}")
        return quantization.quantize(opened, pictures, options)


def _write(found: Quantized, target: Path, *, force: bool) -> bool:
    """Whether the file, read again, computes what it was made from."""
    # Measured in float32, and of that file.
    spec = dataclasses.replace(found.spec, ap={}, sha256=None)
    size, sidecar = convert.save(found.graph, spec, target, force=force)
    print(f"wrote {target}: {size:,} bytes")
    print(f"spec inside {target}" if sidecar is None else f"spec {sidecar}")
    written = parity.End(target, found.graph, spec)
    compared = parity.compare_tensors(written, parity.open_end(target))
    if compared.verdict != "same":
        print(f"{target} computes something else when it is read: do not use it")
    return compared.verdict == "same"


def _write_reports(
    arguments: argparse.Namespace, options: Options, agreement: Agreement, problems: Sequence[str]
) -> None:
    if arguments.json is not None:
        values = {
            "edgeface": __version__,
            "source": str(arguments.source),
            "options": dataclasses.asdict(options),
            **dataclasses.asdict(agreement),
            "limits": dataclasses.asdict(LIMITS),
            "problems": list(problems),
        }
        for layer in values["layers"]:
            # JSON has no infinity.
            layer["sqnr_db"] = layer["sqnr_db"] if math.isfinite(layer["sqnr_db"]) else None
        arguments.json.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {arguments.json}")
    if arguments.plot is not None:
        plots.signal_to_noise(agreement.layers, LIMITS, arguments.target.name, arguments.plot)
        print(f"wrote {arguments.plot}")


def _print(agreement: Agreement) -> None:
    print_table(_layer_rows(agreement.layers), align="<<>>>>")
    faces = agreement.faces
    errors = [f"scores by {faces.score:.4f}", f"boxes by {faces.box:.2%} of the face's size"]
    if faces.landmarks is not None:
        errors.append(f"landmarks by {faces.landmarks:.2%}")
    print(
        f"faces: {faces.counts[0]} in float32, {faces.counts[1]} in int8, {faces.matched} matched, "
        f"{faces.missed} missed, {faces.invented} invented; {', '.join(errors)} on average"
    )


def _layer_rows(layers: Sequence[Layer]) -> Iterator[tuple[str, ...]]:
    yield "value", "operator", "scale", "zero point", "clipped", "SQNR dB"
    for layer in layers:
        clipped, sqnr_db = f"{layer.clipped:.4%}", f"{layer.sqnr_db:.1f}"
        yield layer.name, layer.kind, f"{layer.scale:.6g}", str(layer.zero_point), clipped, sqnr_db
