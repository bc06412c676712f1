"""How long the networks take on edgeface and on the runtimes that one would use instead.

    python benchmarks/convert_peers.py version-*.onnx --images photographs/ --output peers/
    python benchmarks/compare.py version-*.onnx --images photographs/ --peer-models peers/ --markdown table.md

Every runtime runs in a process of its own, from the same network: its own conversion of the clean ONNX file that
edgeface writes, or a released one. First all must find the same faces in the photographs; then they take
turns. Where a runtime has several files or options, those that are fastest here count.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import tempfile
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import machine
import numpy as np
import peers
import pipeline
import report
from peers import photographs, race
from peers.worker import Worker, WorkerError
from report import faces_text, load_text, load_values, ratio_text, time_cells
from tqdm import tqdm

from edgeface import model, parity
from edgeface.faces import Faces
from edgeface.formats import onnx

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from peers import Candidate

    from edgeface.model import Model

OURS = "edgeface"
# Independent of edgeface's kernels; what all are compared with.
REFERENCE = "onnxruntime"
QUALIFYING_ROUNDS = 5
# Of the faces that the float32 network finds. Below, an int8 network is another network.
LEAST_MATCHED = 0.9
DETECT_WORKERS = ("edgeface fp32", "edgeface int8", pipeline.SEED, pipeline.CLEAN_SEED)


@dataclass(frozen=True, eq=False)
class Network:
    """A network to run, and what it must find."""

    name: str  # the same for all its files
    opened: Model
    files: list[Path]
    images: list[NDArray[np.float32]]
    expected: list[Faces]


@dataclass(frozen=True, eq=False)
class Entry:
    """A runtime in the race, or why it is not."""

    runtime: str
    precision: str
    num_threads: int
    candidate: Candidate | None = None
    worker: Worker | None = None
    faces: parity.Matched | None = None
    problem: str | None = None
    times: race.Times | None = None


def main() -> None:
    args = arguments()
    result: dict[str, Any] = {"machine": describe(args.runtimes), "networks": []}
    result |= {"rounds": args.rounds, "runs": args.runs, "detect": []}
    with tempfile.TemporaryDirectory() as folder:
        for path in args.models:
            network = prepare(path, args, Path(folder))
            entries, load = compare(network, args)
            result["networks"].append(network_values(network, entries, load))
            if args.frame is not None:
                result["detect"].append(compare_detects(path, args))
            # After every network, as a run takes long.
            report.write(result, markdown(result), args.json, args.markdown)
    print(markdown(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--images", required=True, type=Path, help="photographs with faces")
    parser.add_argument("--peer-models", nargs="+", type=Path, default=[], metavar="FOLDER")
    parser.add_argument(
        "--quantized", nargs="+", type=Path, default=[], metavar="FILE", help="for edgeface alone"
    )
    parser.add_argument("--runtimes", type=choices(peers.RUNTIMES), default=peers.RUNTIMES)
    parser.add_argument("--precisions", type=choices(peers.PRECISIONS), default=peers.PRECISIONS)
    parser.add_argument("--threads", type=counts, default=(1, 2), metavar="N,N")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--runs", type=int, default=10, help="of a turn")
    parser.add_argument("--frame", type=Path, help="a photograph to time whole detects in, at 720p")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--markdown", type=Path, metavar="OUT")
    return parser.parse_args()


def choices(allowed: Sequence[str]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        unknown = set(names) - set(allowed)
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}; expected {','.join(allowed)}")
        return names

    return parse


def counts(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def describe(runtimes: Iterable[str]) -> dict[str, Any]:
    """As for every benchmark, with the versions of what is compared."""
    found: dict[str, Any] = machine.describe()
    for runtime in runtimes:
        package = peers.adapter(runtime).PACKAGE
        with contextlib.suppress(metadata.PackageNotFoundError):
            found["packages"][package] = metadata.version(package)
    return found


# --- What runs -------------------------------------------------------------------------------------


def prepare(path: Path, args: argparse.Namespace, folder: Path) -> Network:
    opened = model.load(path)
    clean = folder / f"{path.stem}.onnx"
    clean.write_bytes(onnx.write(opened.graph))
    given = [file for source in args.peer_models for file in sorted(source.iterdir())]
    # The same network in another conversion of the same file is not another candidate.
    files = [clean, *(file for file in given if file.name != clean.name)]
    images = [image for _, image in photographs.read(args.images, opened.spec)]
    network = Network(peers.network_name(path), opened, files, images, [])
    candidate = peers.Candidate(REFERENCE, "fp32", clean, "")
    with open_worker(candidate, 1) as worker:
        return replace(network, expected=[found_faces(worker, network, i) for i in images])


def open_worker(candidate: Candidate, num_threads: int) -> Worker:
    worker = Worker(candidate.runtime)
    try:
        path = str(candidate.path.resolve())
        worker.ask("open_model", candidate.runtime, path, num_threads, candidate.variant)
    except WorkerError:
        worker.close()
        raise
    return worker


def found_faces(worker: Worker, network: Network, image: NDArray[np.float32]) -> Faces:
    return photographs.faces(worker.ask("heads", image), network.opened.spec)


def check_faces(worker: Worker, network: Network) -> parity.Matched:
    """Against those of the reference, in all photographs."""
    spec = network.opened.spec
    thresholds = (spec.score_threshold, spec.score_threshold)
    matches = parity.together(
        parity.match_faces(
            expected, found_faces(worker, network, image), spec.input.width, thresholds
        )
        for expected, image in zip(network.expected, network.images)
    )
    assert matches is not None
    return matches


def find_difference(precision: str, found: parity.Matched) -> str | None:
    if precision == "fp32":
        return None if found.verdict == "same" else f"finds other faces: {faces_text(found)}"
    enough = found.matched >= LEAST_MATCHED * max(found.counts)
    return None if enough else f"finds other faces: {faces_text(found)}"


# --- The race --------------------------------------------------------------------------------------


def compare(network: Network, args: argparse.Namespace) -> tuple[list[Entry], race.Load]:
    """Every runtime, precision and number of threads, all in one race."""
    with contextlib.ExitStack() as stack:
        wanted = [(n, p, r) for n in args.threads for p in args.precisions for r in args.runtimes]
        entries = [
            enter(network, args, *names, stack)
            for names in tqdm(wanted, desc=network.name, unit="runtime", leave=False)
        ]
        racing = [entry for entry in entries if entry.worker is not None]
        workers = [entry.worker for entry in racing if entry.worker is not None]
        times, load = race.race(workers, args.rounds, args.runs, network.name)
    ended = dict(zip(map(id, racing), map(with_times, racing, times)))
    return [ended.get(id(entry), entry) for entry in entries], load


def with_times(entry: Entry, times: race.Times | str) -> Entry:
    entry = replace(entry, worker=None)
    return replace(entry, **{"problem" if isinstance(times, str) else "times": times})


def enter(
    network: Network,
    args: argparse.Namespace,
    num_threads: int,
    precision: str,
    runtime: str,
    stack: contextlib.ExitStack,
) -> Entry:
    """The fastest of a runtime's candidates that find the right faces."""
    entry = Entry(runtime, precision, num_threads)
    files = [*network.files, *(args.quantized if runtime == OURS else [])]
    tried = [
        open_checked(network, entry, candidate)
        for candidate in peers.candidates(runtime, precision, network.name, files)
    ]
    able = [found for found in tried if found.worker is not None]
    if not able:
        without = [found.problem for found in tried] or [peers.adapter(runtime).WITHOUT_INT8]
        return replace(entry, problem=without[0])
    best = able[0] if len(able) == 1 else qualify(able, args.runs)
    for found in able:
        if found is not best:
            close(found)
    stack.callback(close, best)
    return best


def open_checked(network: Network, entry: Entry, candidate: Candidate) -> Entry:
    """With a worker where it runs and finds the right faces, else with what is wrong."""
    entry = replace(entry, candidate=candidate)
    try:
        entry = replace(entry, worker=open_worker(candidate, entry.num_threads))
        assert entry.worker is not None
        faces = check_faces(entry.worker, network)
        problem = find_difference(entry.precision, faces)
    except WorkerError as error:
        faces, problem = None, f"{candidate}: {error}"
    if problem is not None:
        close(entry)
        return replace(entry, faces=faces, problem=problem, worker=None)
    return replace(entry, faces=faces)


def qualify(able: list[Entry], runs: int) -> Entry:
    workers = [entry.worker for entry in able if entry.worker is not None]
    times, _ = race.race(workers, QUALIFYING_ROUNDS, runs)
    # Not the median: so few rounds may all meet somebody else's work.
    fast = [race.spread(t.runs).p10 if isinstance(t, race.Times) else math.inf for t in times]
    return able[fast.index(min(fast))]


def close(entry: Entry) -> None:
    if entry.worker is not None:
        entry.worker.close()


# --- Whole detects ---------------------------------------------------------------------------------


def compare_detects(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One detect of a 720p frame on one thread, beside the pipeline that people start from."""
    frame = pipeline.read_frame(args.frame)
    quantized = next(iter(our_quantized(path, args)), None)
    names = [name for name in DETECT_WORKERS if quantized is not None or "int8" not in name]
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(name)) for name in names]
        for worker in workers:
            file = None if quantized is None else str(quantized.resolve())
            worker.ask("open_pipeline", "peers.detect", worker.name, str(path.resolve()), file)
        faces = [detected(worker, frame) for worker in workers]
        matched = [parity.match_faces(faces[0], f, frame.shape[1], (0.0, 0.0)) for f in faces]
        check_detects(names, matched)
        times, load = race.race(workers, args.rounds, args.runs, f"{path.stem}, detect")
    if not all(isinstance(found, race.Times) for found in times):
        raise SystemExit(f"{path.name}, detect: {times}")
    seed = times[names.index(pipeline.SEED)]
    return {
        "model": path.name,
        "quantized": None if quantized is None else quantized.name,
        "frame": pipeline.FRAME,
        "load": load_values(load),
        "rows": [detect_values(*row, seed) for row in zip(names, matched, times)],
    }


def detected(worker: Worker, frame: NDArray[np.uint8]) -> Faces:
    """Ending at the frame's edges, where only edgeface's do of themselves."""
    rows = worker.ask("faces", frame)
    corners = pipeline.clipped(rows)
    return Faces(np.column_stack([corners, rows[:, 4]]).astype(np.float32))


def check_detects(names: Sequence[str], matched: Sequence[parity.Matched]) -> None:
    for name, found in zip(names, matched):
        least = LEAST_MATCHED if "int8" in name else 1.0
        if found.matched < least * max(found.counts):
            raise SystemExit(f"{name} finds other faces than {names[0]}: {faces_text(found)}")


def our_quantized(path: Path, args: argparse.Namespace) -> Iterator[Path]:
    given = [file for source in args.peer_models for file in sorted(source.iterdir())]
    name = peers.network_name(path)
    for candidate in peers.candidates(OURS, "int8", name, [*args.quantized, *given]):
        yield candidate.path


def detect_values(
    name: str, faces: parity.Matched, times: race.Times, seed: race.Times
) -> dict[str, Any]:
    stages = [race.spread(times.stages[..., i])._asdict() for i in range(times.stages.shape[-1])]
    return {
        "name": name,
        "faces": faces_text(faces),
        "milliseconds": race.spread(times.runs)._asdict(),
        "stages": dict(zip(("preprocess", "run", "decode"), stages)),
        "besides_network": race.spread(times.runs - times.stages[..., 1])._asdict(),
        "over_seed": race.ratio(times, seed),
    }


# --- What is told ----------------------------------------------------------------------------------


def network_values(network: Network, entries: list[Entry], load: race.Load) -> dict[str, Any]:
    return {
        "model": network.opened.path.name,
        "input": [network.opened.spec.input.width, network.opened.spec.input.height],
        "faces": sum(map(len, network.expected)),
        "images": len(network.images),
        "load": load_values(load),
        "rows": [entry_values(entry, entries) for entry in entries],
    }


def entry_values(entry: Entry, entries: list[Entry]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "runtime": entry.runtime,
        "precision": entry.precision,
        "threads": entry.num_threads,
        "candidate": None if entry.candidate is None else str(entry.candidate),
        "problem": entry.problem,
    }
    if entry.faces is not None:
        values["faces"] = faces_text(entry.faces)
    if entry.times is None:
        return values
    values["milliseconds"] = race.spread(entry.times.runs)._asdict()
    for precision in peers.PRECISIONS:
        peer = fastest_peer(entries, precision, entry.num_threads)
        if peer is not None and peer.times is not None:
            values[f"over_{precision}_peer"] = {
                "peer": peer.runtime,
                **race.ratio(entry.times, peer.times),
            }
    one = next((e for e in entries if same_but_threads(e, entry) and e.num_threads == 1), None)
    if one is not None and one.times is not None and entry.num_threads > 1:
        values["over_one_thread"] = race.ratio(entry.times, one.times)
    return values


def fastest_peer(entries: list[Entry], precision: str, num_threads: int) -> Entry | None:
    able = [
        entry
        for entry in entries
        if (entry.precision, entry.num_threads) == (precision, num_threads)
        and entry.runtime != OURS
        and entry.times is not None
    ]
    return min(able, key=lambda e: race.spread(e.times.runs).median if e.times else 0, default=None)


def same_but_threads(one: Entry, other: Entry) -> bool:
    return (one.runtime, one.precision) == (other.runtime, other.precision)


def markdown(result: dict[str, Any]) -> str:
    lines = [
        report.machine_text(result["machine"]),
        f"{result['rounds']} rounds of {result['runs']} runs each. Milliseconds; {report.RATIOS}.",
    ]
    for network in result["networks"]:
        lines += network_lines(network)
    for detects in result["detect"]:
        lines += detect_lines(detects)
    return "\n".join(lines)


def network_lines(network: dict[str, Any]) -> Iterator[str]:
    width, height = network["input"]
    yield f"\n### {network['model']}, {width}x{height}, network only\n"
    yield load_text(network["load"])
    yield f"{network['faces']} faces in {network['images']} photographs. {peers_text(network)}\n"
    yield (
        "| threads | runtime | median | min | p10-p90 | over fp32 peer | over int8 peer | "
        "over one thread | faces | file, options |"
    )
    yield "|--:|---|--:|--:|--:|--:|--:|--:|--:|---|"
    for row in network["rows"]:
        name = f"{row['runtime']} {row['precision']}"
        if "milliseconds" not in row:
            yield f"| {row['threads']} | {name} | | | | | | | | {row['problem']} |"
            continue
        cells = [str(row["threads"]), name, *time_cells(row["milliseconds"])]
        cells += [ratio_text(row.get(f"over_{p}_peer")) for p in peers.PRECISIONS]
        cells += [ratio_text(row.get("over_one_thread")), row["faces"], row["candidate"]]
        yield f"| {' | '.join(cells)} |"


def detect_lines(detects: dict[str, Any]) -> Iterator[str]:
    width, height = detects["frame"]
    yield f"\n### {detects['model']}, one detect of a {width}x{height} frame, one thread\n"
    yield load_text(detects["load"]) + "\n"
    yield (
        "| pipeline | median | min | p10-p90 | preprocess | network | decode, NMS | "
        "all but network | over plain Python | faces |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for row in detects["rows"]:
        stages = [f"{stage['median']:.3f}" for stage in row["stages"].values()]
        besides = f"{row['besides_network']['median']:.3f}"
        cells = [row["name"], *time_cells(row["milliseconds"]), *stages, besides]
        yield f"| {' | '.join([*cells, ratio_text(row['over_seed']), row['faces']])} |"


def peers_text(network: dict[str, Any]) -> str:
    """Which ones the ratios are over."""
    found = {
        (row["threads"], precision): row[f"over_{precision}_peer"]["peer"]
        for row in network["rows"]
        for precision in peers.PRECISIONS
        if f"over_{precision}_peer" in row
    }
    names = (f"{n} x {precision}: {peer}" for (n, precision), peer in found.items())
    return f"The fastest peers, by threads and precision: {', '.join(names)}."


if __name__ == "__main__":
    main()
