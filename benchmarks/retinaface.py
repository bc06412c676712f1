"""RetinaFace on 720p frames: the whole network and without its finest level, on every runtime, beside the published pipeline.

    python benchmarks/retinaface.py --mobilenet mobilenet0.25_Final.pth --frame group.jpg --data eval-wider-val.tar

First all must find the same faces; then they take turns. The ResNet-50 has random weights unless a file is given:
its time is the same, and the faces that it finds are the same everywhere, though they are none.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import machine
import numpy as np
import peers.published
import pipeline
import report
from peers import race
from peers.worker import Worker, WorkerError
from tqdm import tqdm

from edgeface import convert, evaluation, model, parity, trim, zoo
from edgeface.backends import native
from edgeface.evaluation.figures import FRAME
from edgeface.faces import Faces
from edgeface.networks import builder, retinaface

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from edgeface.graph import Graph
    from edgeface.model import Model
    from edgeface.spec import ModelSpec

SIZE = (1280, 736)  # of the input: the frame's, filled up to whole cells of stride 32
# Of 38,640 priors those of random weights that are faces: as many as a crowd has.
CANDIDATES = 200
TRIMMED = 1 + peers.published.STEPS.index(peers.published.TRIM)
# Half precision finds nearly the same.
LEAST_MATCHED = 0.9
# The seed's table: 2,000 frames of 720p on a GPU that it does not name, whole and trimmed.
SEED = {"mobilenet": (16.5, 13.1), "resnet50": (52.6, 47.6)}


@dataclass(frozen=True)
class Row:
    """A pipeline in the race."""

    name: str
    kind: str  # edgeface or published
    options: dict[str, Any]
    steps: int = 0  # of what is published

    @property
    def is_trimmed(self) -> bool:
        return "levels" in self.options or self.steps >= TRIMMED

    @property
    def is_half(self) -> bool:
        return bool(self.options.get("half"))


@dataclass(frozen=True, eq=False)
class Ended:
    """A row, and what came of it."""

    row: Row
    faces: parity.Matched | None = None
    times: race.Times | None = None
    problem: str | None = None


def main() -> None:
    args = arguments()
    result: dict[str, Any] = {"machine": machine.describe(), "frame": pipeline.FRAME}
    result |= {"min_face": args.min_face, "networks": []}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks:
            path = prepared(name, args, Path(folder))
            result["networks"].append(network_values(name, path, args))
            report.write(result, markdown(result), args.json, args.markdown)
    if args.data is not None:
        result["ap"] = ap_values(args)
        report.write(result, markdown(result), args.json, args.markdown)
    print(markdown(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mobilenet", required=True, type=Path, help="its released .pth")
    parser.add_argument("--resnet50", type=Path, help="weights (default: random ones)")
    parser.add_argument("--frame", required=True, type=Path, help="a photograph with faces")
    parser.add_argument("--data", type=Path, help="annotated images, for AP by face height")
    parser.add_argument(
        "--min-face", type=float, default=64.0, help="of trimmed networks, in pixels"
    )
    parser.add_argument(
        "--networks", nargs="*", choices=list(SEED), default=list(SEED), metavar="NAME"
    )
    parser.add_argument("--rounds", type=int, default=20, help="a sixth of it for the ResNet-50")
    parser.add_argument("--runs", type=int, default=3, help="of a turn; one for the ResNet-50")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--markdown", type=Path, metavar="OUT")
    return parser.parse_args()


# --- Networks --------------------------------------------------------------------------------------


def prepared(name: str, args: argparse.Namespace, folder: Path) -> Path:
    """The network as a file whose input is as large as the frame."""
    given = args.mobilenet if name == "mobilenet" else args.resnet50
    opened = random_resnet50(folder, args) if given is None else model.load(given).resized(*SIZE)
    path = folder / f"{name}.onnx"
    convert.save(opened.graph, opened.spec, path, force=True)
    return path


class RandomBuilder(builder.Builder):
    """Takes weights that it makes up, so that values keep their size from layer to layer."""

    def __init__(self, size: tuple[int, int], gains: Mapping[str, float]) -> None:
        keys = (
            "body.conv1.weight",
            "LandmarkHead.0.conv1x1.weight",
        )  # what tells which network it is
        super().__init__({key: np.zeros(0) for key in keys}, size, None)
        self._random = np.random.default_rng(0)
        self._gains = gains

    def take(self, key: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        self.used.add(key)
        if key.endswith(("running_var", "weight")) and len(shape) == 1:
            # What a block adds to what goes by it is little.
            return np.full(shape, 0.2 if key.endswith("bn3.weight") else 1.0)
        if len(shape) == 1:
            return np.zeros(shape)
        gain = self._gains.get(key.partition(".")[0], np.sqrt(2))
        values: NDArray[np.float64] = self._random.normal(size=shape)
        return values * gain / np.sqrt(np.prod(shape[1:]))


def random_graph(size: tuple[int, int], gains: Mapping[str, float]) -> Graph:
    drawing = RandomBuilder(size, gains)
    return drawing.finish(retinaface.draw(drawing))


def random_resnet50(folder: Path, args: argparse.Namespace) -> Model:
    """Its heads differ from prior to prior by 1, and its threshold lets some CANDIDATES of the frame's pass."""
    frame = pipeline.read_frame(args.frame)
    small = random_graph((320, 192), {})
    spec = zoo.family_spec("retinaface", small)
    found = outputs(small, spec, frame[:180, :320])
    gain = np.sqrt(2) / float(np.std(found["landmarks"]))  # those of scores are behind a softmax
    gains = {head: gain for _, head, _ in retinaface.HEADS}
    graph = random_graph(SIZE, gains)
    spec = zoo.family_spec("retinaface", graph)
    path = folder / "random.onnx"
    convert.save(graph, spec, path, force=True)
    scores = np.sort(outputs(graph, spec, frame)["scores"][..., 1].ravel())[::-1]
    # Between two that are as far from each other as any near there.
    near = scores[CANDIDATES : CANDIDATES + 50]
    widest = int(np.argmax(near[:-1] - near[1:]))
    threshold = float(near[widest : widest + 2].mean())
    return dataclasses.replace(
        model.load(path), spec=dataclasses.replace(spec, score_threshold=threshold)
    )


def outputs(graph: Graph, spec: ModelSpec, frame: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    width, height = graph.input_size
    image = np.zeros((1, 3, height, width), np.float32)
    image[0, :, : frame.shape[0]] = (frame - np.float32(spec.input.mean)).transpose(2, 0, 1)
    engine = native.open_graph(graph, 2)
    engine.input()[:] = image
    engine.run()
    columns = {name: count for name, _, count in retinaface.HEADS}
    return {n: np.asarray(engine.output(n)).reshape(-1, columns[n]).copy() for n in columns}


# --- The race --------------------------------------------------------------------------------------


def rows(strides: tuple[int, ...]) -> Iterator[Row]:
    """Whole and trimmed on every runtime that is here; what is published, one step after another."""
    targets: list[tuple[str, dict[str, Any]]] = [
        (f"native, {n} thread{'s' * (n > 1)}", {"backend": "native", "num_threads": n})
        for n in (1, 2)
    ]
    one = {"num_threads": 1}
    targets.append(("onnxruntime, 1 thread", {"backend": "onnxruntime", **one}))
    devices = torch_devices()
    if devices:
        targets.append(("torch, 1 thread", {"backend": "torch", **one}))
    if "cuda" in devices:
        cuda = {"backend": "torch", "device": "cuda", **one}
        targets += [("torch, CUDA", cuda), ("torch, CUDA, half", {**cuda, "half": True})]
    for name, options in targets:
        yield Row(name, "edgeface", options)
        yield Row(f"{name}, trimmed", "edgeface", {**options, "levels": strides})
    for device in devices or (peers.published.CORE,):
        for steps in range(len(peers.published.STEPS) + 1):
            added = "published" if steps == 0 else f"+ {peers.published.STEPS[steps - 1]}"
            options = {"device": device, "steps": steps, "strides": strides, **one}
            yield Row(f"{added} ({device})", "published", options, steps)


def torch_devices() -> tuple[str, ...]:
    """Told by a process of its own: this one does without PyTorch."""
    if importlib.util.find_spec("torch") is None:
        return ()
    with Worker("torch") as worker:
        found: tuple[str, ...] = worker.ask("torch_devices")
    return found


def race_all(
    name: str, path: Path, strides: tuple[int, ...], args: argparse.Namespace
) -> tuple[list[Ended], race.Load]:
    frame = pipeline.read_frame(args.frame)
    is_small = name == "mobilenet"
    with contextlib.ExitStack() as stack:
        opened = []
        references: dict[bool, Faces] = {}
        for row in tqdm(list(rows(strides)), desc=f"{name}, opening", leave=False):
            worker = stack.enter_context(Worker(row.name))
            opened.append((worker, checked(row, worker, path, frame, references)))
        racing = [(w, ended) for w, ended in opened if ended.problem is None]
        times, load = race.race(
            [worker for worker, _ in racing],
            args.rounds if is_small else max(3, args.rounds // 6),
            args.runs if is_small else 1,
            name,
            warm_up=1 if is_small else 0,
        )
    found = {id(ended): with_times(ended, t) for (_, ended), t in zip(racing, times)}
    return [found.get(id(ended), ended) for _, ended in opened], load


def checked(
    row: Row, worker: Worker, path: Path, frame: NDArray[np.uint8], references: dict[bool, Faces]
) -> Ended:
    """With its faces beside those of the first row that is trimmed as this one is."""
    try:
        worker.ask("open_pipeline", "peers.published", row.kind, str(path), row.options)
        found = Faces(np.float32(worker.ask("faces", frame)[:, :5]))
    except WorkerError as error:
        return Ended(row, problem=str(error))
    found = Faces(np.column_stack([pipeline.clipped(found.rows), found.scores]).astype(np.float32))
    expected = references.setdefault(row.is_trimmed, found)
    matched = parity.match_faces(expected, found, frame.shape[1], (0.0, 0.0))
    least = LEAST_MATCHED if row.is_half else 1.0
    if not len(expected) or matched.matched < least * max(matched.counts):
        return Ended(row, matched, problem=f"finds other faces: {report.faces_text(matched)}")
    return Ended(row, matched)


def with_times(ended: Ended, times: race.Times | str) -> Ended:
    return dataclasses.replace(ended, **{"problem" if isinstance(times, str) else "times": times})


# --- AP --------------------------------------------------------------------------------------------


def ap_values(args: argparse.Namespace) -> dict[str, Any]:
    """Whole and trimmed, each input as large as its image."""
    options = {"input_size": "frame", "backend": "native"}
    with evaluation.open_truth(args.data) as truth:
        candidates = [
            evaluation.open_model(args.mobilenet, name, **options, **extra)
            for name, extra in (("whole", {}), ("trimmed", {"min_face": args.min_face}))
        ]
        found = evaluation.find_all(
            truth, candidates, lambda scenes: tqdm(scenes, desc="AP", unit="image", leave=False)
        )
        figures = [evaluation.assess(truth, *pair).figures for pair in zip(candidates, found)]
        return {
            "data": truth.name,
            "images": len(truth.scenes),
            "rows": [
                {
                    "name": f.name,
                    "subsets": {name: subset.ap for name, subset in f.subsets.items()},
                    "heights": [[h.text, h.faces, h.ap] for h in f.heights[FRAME]],
                }
                for f in figures
            ],
        }


# --- What is told ----------------------------------------------------------------------------------


def network_values(name: str, path: Path, args: argparse.Namespace) -> dict[str, Any]:
    opened = model.load(path)
    strides = trim.needed_strides(opened.spec.priors, args.min_face)
    fewer = trim.trimmed(opened.graph, opened.spec, strides)
    ended, load = race_all(name, path, strides, args)
    by_name = {e.row.name: e for e in ended}
    return {
        "name": name,
        "weights": "random" if name == "resnet50" and args.resnet50 is None else "given",
        "whole": size_values(opened.graph, opened.spec),
        "trimmed": size_values(*fewer),
        "load": report.load_values(load),
        "rows": [row_values(e, by_name) for e in ended],
    }


def size_values(graph: Graph, spec: ModelSpec) -> dict[str, int]:
    return {
        "multiply_adds": sum(map(graph.multiply_adds, graph.nodes)),
        "priors": spec.priors.count(spec.input.width, spec.input.height),
    }


def row_values(ended: Ended, by_name: dict[str, Ended]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": ended.row.name,
        "kind": ended.row.kind,
        "steps": ended.row.steps,
        "problem": ended.problem,
    }
    if ended.faces is not None:
        values["faces"] = report.faces_text(ended.faces)
    if ended.times is None:
        return values
    values["milliseconds"] = race.spread(ended.times.runs)._asdict()
    stages = [race.spread(ended.times.stages[..., i])._asdict() for i in range(3)]
    values["stages"] = dict(zip(("preprocess", "run", "decode"), stages))
    whole = by_name.get(ended.row.name.removesuffix(", trimmed"))
    if whole is not None and whole is not ended and whole.times is not None:
        values["over_whole"] = race.ratio(ended.times, whole.times)
    for device in ("cuda", "cpu", peers.published.CORE):
        first = by_name.get(f"published ({device})")
        is_there = device == ended.row.options.get("device", first and "cpu")
        if (
            first is not None
            and first.times is not None
            and (ended.row.kind == "edgeface" or is_there)
        ):
            values.setdefault("over_published", {})[device] = race.ratio(ended.times, first.times)
    return values


def markdown(result: dict[str, Any]) -> str:
    width, height = result["frame"]
    lines = [
        report.machine_text(result["machine"]),
        f"Frames of {width}x{height}; trimmed: what min_face={result['min_face']:g} needs.",
        f"Milliseconds of a detect; {report.RATIOS}.",
    ]
    for network in result["networks"]:
        lines += network_lines(network)
    if "ap" in result:
        lines += ap_lines(result["ap"])
    return "\n".join(lines)


def network_lines(network: dict[str, Any]) -> Iterator[str]:
    yield f"\n### {network['name']}, {network['weights']} weights\n"
    yield report.load_text(network["load"])
    whole, trimmed = network["whole"], network["trimmed"]
    yield (
        f"Whole {whole['multiply_adds'] / 1e6:,.0f} M multiply-adds and {whole['priors']:,} priors, trimmed "
        f"{trimmed['multiply_adds'] / 1e6:,.0f} M and {trimmed['priors']:,}. The seed's table: {seed_text(network)}.\n"
    )
    yield (
        "| pipeline | median | min | p10-p90 | preprocess | network | decode, NMS | over whole | "
        "over published | faces |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for row in network["rows"]:
        if "milliseconds" not in row:
            yield f"| {row['name']} | | | | | | | | | {row['problem']} |"
            continue
        cells = [row["name"], *report.time_cells(row["milliseconds"])]
        cells += [f"{stage['median']:.3f}" for stage in row["stages"].values()]
        over = row.get("over_published", {})
        cells += [report.ratio_text(row.get("over_whole"))]
        cells += ["; ".join(f"{report.ratio_text(v)} {d}" for d, v in over.items()), row["faces"]]
        yield f"| {' | '.join(cells)} |"


def seed_text(network: dict[str, Any]) -> str:
    before, after = SEED[network["name"]]
    return f"{before} -> {after} ms ({1 - after / before:.1%} saved)"


def ap_lines(ap: dict[str, Any]) -> Iterator[str]:
    first = ap["rows"][0]
    yield f"\n### AP on {ap['data']}, {ap['images']} images, input as large as the image\n"
    heights = [f"{text} ({faces})" for text, faces, _ in first["heights"]]
    yield f"| | {' | '.join([*first['subsets'], *heights])} |"
    yield f"|---|{'--:|' * (len(first['subsets']) + len(heights))}"
    for row in ap["rows"]:
        values = [*row["subsets"].values(), *(value for _, _, value in row["heights"])]
        cells = ["-" if value is None else f"{value:.4f}" for value in values]
        yield f"| {row['name']} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
