"""Instructions that one frame takes on an ARM CPU, exactly, without one: on edgeface and on its peers' wheels.

    python benchmarks/arm.py --model version-RFB-320.onnx --image group.jpg --peer-models peers/
        --wheel edgeface-*-cp311-cp311-*_aarch64.whl

The wheels run on one thread in QEMU's user-mode emulation (dynamically linked and older than 8.2: qemu-user 7.2
of Debian bookworm) of a Cortex-A53, or with `--arch armv7l` of a Cortex-A7, whose plugin arm/counter.c counts. What a
frame costs is the difference of two runs, one of them with more frames. Every runtime must find the same faces there,
too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cortex_a53
import machine
import numpy as np
import peers
from peers import photographs
from tqdm import tqdm

from edgeface import model, parity
from edgeface.formats import onnx

if TYPE_CHECKING:
    from peers import Candidate

    from edgeface.faces import Faces
    from edgeface.model import Model

HERE = Path(__file__).resolve().parent
RUNTIMES = ("edgeface", "onnxruntime", "litert", "ncnn", "mnn")
PYTHON = "3.11"  # Debian bookworm's
SYSTEM = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6", "libgomp1")
PLATFORMS = ("2_31", "2_28", "2_27", "2_17")


@dataclass(frozen=True)
class Machine:
    """What is emulated, and what Debian and PyPI have for it."""

    qemu: str
    cpu: str  # as QEMU calls it
    system: tuple[str, ...]
    packages: tuple[str, ...]
    runtimes: tuple[str, ...]
    cpuinfo: str  # of each CPU; the host's has crashed runtimes that look for the processor's name


MACHINES = {
    "aarch64": Machine(
        qemu="qemu-aarch64",
        cpu="cortex-a53",
        system=SYSTEM,
        packages=("numpy",),
        runtimes=RUNTIMES,
        cpuinfo="Features\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
        "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd03\nCPU revision\t: 4\n",
    ),
    # PyPI has no NumPy for it, and of the peers ncnn alone.
    "armv7l": Machine(
        qemu="qemu-arm",
        cpu="cortex-a7",
        system=(*SYSTEM, "python3-numpy"),
        packages=(),
        runtimes=("edgeface", "ncnn"),
        cpuinfo="Features\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae\n"
        "CPU implementer\t: 0x41\nCPU architecture: 7\nCPU variant\t: 0x0\nCPU part\t: 0xc07\n"
        "CPU revision\t: 5\n",
    ),
}
CPUS = 4
# Otherwise starting threads and hashing differ from run to run.
SETTLED = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
}
SHOWN_KINDS = 8


@dataclass(frozen=True)
class Emulator:
    """A foreign Python, counted."""

    qemu: str
    cpu: str
    root: Path
    variables: dict[str, str]
    plugin: Path

    def count(self, *arguments: object) -> dict[str, int]:
        """How often `python -m ARGUMENTS` executes each kind of instruction."""
        with tempfile.NamedTemporaryFile() as counts:
            command = [self.qemu, "-cpu", self.cpu, "-L", str(self.root)]
            for name, value in {**SETTLED, **self.variables}.items():
                command += ["-E", f"{name}={value}"]
            command += ["-plugin", f"{self.plugin},out={counts.name}"]
            command += [str(self.root / f"usr/bin/python{PYTHON}"), "-m", *map(str, arguments)]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode != 0:
                last = done.stderr.strip().splitlines()[-1:] or ["no message"]
                raise RuntimeError(f"status {done.returncode}: {last[0]}")
            lines = (line.split(" ", 1) for line in Path(counts.name).read_text().splitlines())
            return {kind: int(count) for count, kind in lines}


def main() -> None:
    args = arguments()
    opened = model.load(args.model)
    with tempfile.TemporaryDirectory() as folder:
        emulator = prepare(args, Path(folder))
        wanted = find_candidates(args, opened, Path(folder))
        rows = [
            measure(candidate, opened, emulator, args, Path(folder))
            for candidate in tqdm(wanted, unit="file", leave=False)
        ]
    add_ratios(rows)
    result = {
        "machine": machine.describe(),
        "versions": versions(args),
        "qemu": qemu_version(args.qemu),
        "cpu": args.cpu,
        "model": args.model.name,
        "frames": args.frames,
        "rows": rows,
    }
    text = markdown(result)
    print(text)
    for target, content in ((args.json, json.dumps(result, indent=2)), (args.markdown, text)):
        if target is not None:
            target.write_text(content + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--image", required=True, type=Path, help="a photograph with faces")
    parser.add_argument("--arch", choices=MACHINES, default="aarch64")
    parser.add_argument("--wheel", type=Path, help="edgeface for that and CPython 3.11")
    parser.add_argument("--peer-models", nargs="+", type=Path, default=[], metavar="FOLDER")
    parser.add_argument(
        "--quantized", nargs="+", type=Path, default=[], metavar="FILE", help="for edgeface alone"
    )
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, help="default: all there are")
    parser.add_argument("--precisions", nargs="+", choices=peers.PRECISIONS, default=["fp32"])
    parser.add_argument("--frames", type=int, default=4, help="between the two runs")
    parser.add_argument("--cpu", help="as QEMU calls it; default: cortex-a53 or cortex-a7")
    parser.add_argument("--qemu", help="default: qemu-aarch64 or qemu-arm")
    parser.add_argument(
        "--work",
        type=Path,
        metavar="FOLDER",
        help="keeps the emulated system (root/) and the peers' wheels (site/), which it makes; "
        "default: build/ARCH",
    )
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--markdown", type=Path, metavar="OUT")
    args = parser.parse_args()
    chosen = MACHINES[args.arch]
    args.cpu = args.cpu or chosen.cpu
    args.qemu = args.qemu or chosen.qemu
    args.runtimes = args.runtimes or chosen.runtimes
    args.work = args.work or HERE.parent / "build" / args.arch
    if args.wheel is None and "edgeface" in args.runtimes:
        parser.error("--wheel is missing; `nox -s wheels` builds one, --runtimes can leave it out")
    return args


# --- The emulated machine --------------------------------------------------------------------------


def prepare(args: argparse.Namespace, folder: Path) -> Emulator:
    root, site = args.work / "root", args.work / "site"
    if not root.exists():
        unpack_system(root, args.arch)
    (root / "proc").mkdir(exist_ok=True)
    described = (f"processor\t: {i}\n{MACHINES[args.arch].cpuinfo}\n" for i in range(CPUS))
    (root / "proc" / "cpuinfo").write_text("".join(described), encoding="ascii")
    if not site.exists():
        install_peers(site, args.arch)
    path = [site, HERE]
    if args.wheel is not None:
        with zipfile.ZipFile(args.wheel) as wheel:
            wheel.extractall(folder / "edgeface")
        path.insert(0, folder / "edgeface")
    plugin = folder / "counter.so"
    source = HERE / "arm" / "counter.c"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O2", "-fPIC", "-shared", source, "-o", plugin], check=True)
    variables = {"PYTHONPATH": ":".join(str(part.resolve()) for part in path)}
    # Debian chooses one of several by links that only an installation makes.
    blas = [
        path for name in ("blas", "lapack") for path in root.resolve().glob(f"usr/lib/*/{name}")
    ]
    variables["LD_LIBRARY_PATH"] = ":".join(map(str, blas))
    return Emulator(args.qemu, args.cpu, root.resolve(), variables, plugin)


def unpack_system(root: Path, arch: str) -> None:
    sys.path.insert(0, str(HERE.parent / "packaging"))
    import debian

    debian.unpack("bookworm", arch, MACHINES[arch].system, root)


def install_peers(site: Path, arch: str) -> None:
    wanted = MACHINES[arch]
    packages = [peers.adapter(name).PACKAGE for name in wanted.runtimes if name != "edgeface"]
    tags = [f"--platform=manylinux_{glibc}_{arch}" for glibc in PLATFORMS]
    abis = [f"--abi={abi}" for abi in ("cp" + PYTHON.replace(".", ""), "abi3", "none")]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", site]
    command += ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"]
    command += [] if wanted.packages else ["--no-deps"]
    subprocess.run([*command, *abis, *tags, *wanted.packages, *packages], check=True)


def versions(args: argparse.Namespace) -> dict[str, str]:
    """Of the wheels that were run."""
    places = [args.work / "root" / "usr/lib/python3/dist-packages", args.work / "site"]
    found = {d.name: d.version for d in metadata.distributions(path=list(map(str, places)))}
    wanted = {"numpy", *(peers.adapter(name).PACKAGE for name in args.runtimes)}
    versions = {name: v for name, v in found.items() if name.lower() in map(str.lower, wanted)}
    return {**versions, **({} if args.wheel is None else {"edgeface": args.wheel.name})}


def qemu_version(qemu: str) -> str:
    return subprocess.run(
        [qemu, "--version"], check=True, capture_output=True, text=True
    ).stdout.splitlines()[0]


# --- Counting --------------------------------------------------------------------------------------


def find_candidates(args: argparse.Namespace, opened: Model, folder: Path) -> list[Candidate]:
    clean = folder / f"{args.model.stem}.onnx"
    clean.write_bytes(onnx.write(opened.graph))
    given = [file for source in args.peer_models for file in sorted(source.iterdir())]
    files = [clean, *(file for file in given if file.name != clean.name)]
    name = peers.network_name(args.model)
    return [
        candidate
        for precision in args.precisions
        for runtime in args.runtimes
        for candidate in peers.candidates(
            runtime, precision, name, [*files, *(args.quantized if runtime == "edgeface" else [])]
        )
    ]


def measure(
    candidate: Candidate, opened: Model, emulator: Emulator, args: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "runtime": candidate.runtime,
        "precision": candidate.precision,
        "candidate": str(candidate),
    }
    (_, image), *_ = photographs.read(args.image, opened.spec)
    image_file, heads_file = folder / "image.npy", folder / "heads.npz"
    np.save(image_file, image)
    runs = []
    for frames in (args.frames, 2 * args.frames):
        call = (candidate.runtime, candidate.path.resolve(), candidate.variant, image_file, frames)
        try:
            runs.append(emulator.count("peers.frames", *call, heads_file))
        except RuntimeError as error:
            return {**values, "problem": str(error)}
    counts = {
        kind: (count - runs[0].get(kind, 0)) / args.frames
        for kind, count in runs[1].items()
        if count != runs[0].get(kind, 0)
    }
    # Nobody is known to have measured a 32-bit CPU's instructions one by one.
    costs = cortex_a53.weighted(counts) if args.arch == "aarch64" else ()
    with np.load(heads_file) as heads:
        faces = photographs.faces((heads["scores"], heads["boxes"]), opened.spec)
    return {
        **values,
        "faces": faces_text(expected_faces(opened, image), faces, opened),
        "instructions": sum(counts.values()),
        **dict(zip(("issue_cycles", "guessed_share"), costs)),
        "kinds": dict(sorted(counts.items(), key=lambda item: -item[1])),
    }


def expected_faces(opened: Model, image: np.ndarray) -> Faces:
    """As this machine's own edgeface finds them, in float32."""
    found, _ = parity.run(opened.graph, ("scores", "boxes"), image, "native")
    heads = found["scores"].reshape(-1, 2), found["boxes"].reshape(-1, 4)
    return photographs.faces(heads, opened.spec)


def faces_text(expected: Faces, found: Faces, opened: Model) -> str:
    spec = opened.spec
    thresholds = (spec.score_threshold, spec.score_threshold)
    matched = parity.match_faces(expected, found, spec.input.width, thresholds)
    return f"{matched.matched} of {matched.counts[0]}"


def add_ratios(rows: list[dict[str, Any]]) -> None:
    """Over the float32 peer with the fewest instructions, and the one with the fewest cycles."""
    able = [
        row
        for row in rows
        if row["precision"] == "fp32" and row["runtime"] != "edgeface" and "instructions" in row
    ]
    for what in ("instructions", "issue_cycles"):
        least = min((row[what] for row in able if what in row), default=None)
        for row in rows:
            if least is not None and what in row:
                row[f"{what}_over_peer"] = row[what] / least


# --- What is told ----------------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    best = counted(result)
    lines = [
        f"{result['machine']['date']}, {result['model']}, -cpu {result['cpu']}, one thread",
        f"{result['qemu']}; {versions}",
        f"Ratios are over {least_text(result['rows'])}.",
        "",
        "| runtime | M instructions | over peer | M issue cycles | over peer | guessed | faces | file, options |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
        *map(row_text, result["rows"]),
        "",
        "| M instructions a frame | " + " | ".join(map(row_name, best)) + " |",
        "|---|" + "--:|" * len(best),
        *(f"| `{kind}` | {' | '.join(cell(row, kind) for row in best)} |" for kind in common(best)),
    ]
    return "\n".join(lines)


def least_text(rows: list[dict[str, Any]]) -> str:
    """Who the float32 peers are that need least."""
    found = {
        what: next((row["runtime"] for row in rows if row.get(f"{what}_over_peer") == 1), "nobody")
        for what in ("instructions", "issue_cycles")
    }
    return f"{found['instructions']} fp32 and, in cycles, {found['issue_cycles']} fp32"


def counted(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The candidate with the fewest instructions for each runtime and precision."""
    best: dict[str, dict[str, Any]] = {}
    for row in result["rows"]:
        name = row_name(row)
        if "instructions" in row and (
            name not in best or row["instructions"] < best[name]["instructions"]
        ):
            best[name] = row
    return list(best.values())


def common(rows: list[dict[str, Any]]) -> list[str]:
    """The kinds of instruction that any of them executes most."""
    kinds: dict[str, float] = {}
    for row in rows:
        for kind in list(row["kinds"])[:SHOWN_KINDS]:
            kinds[kind] = max(kinds.get(kind, 0.0), row["kinds"][kind])
    return sorted(kinds, key=lambda kind: -kinds[kind])


def row_name(row: dict[str, Any]) -> str:
    return f"{row['runtime']} {row['precision']}"


def row_text(row: dict[str, Any]) -> str:
    name = row_name(row)
    if "instructions" not in row:
        return f"| {name} | | | | | | | {row['candidate']}: {row['problem']} |"
    cells = [name, f"{row['instructions'] / 1e6:.1f}", ratio(row, "instructions")]
    if "issue_cycles" in row:
        cells += [f"{row['issue_cycles'] / 1e6:.1f}", ratio(row, "issue_cycles")]
        cells += [f"{row['guessed_share']:.1%}"]
    else:
        cells += ["", "", ""]
    cells += [row["faces"], row["candidate"]]
    return f"| {' | '.join(cells)} |"


def ratio(row: dict[str, Any], what: str) -> str:
    found = row.get(f"{what}_over_peer")
    return "" if found is None else f"{found:.2f}"


def cell(row: dict[str, Any], kind: str) -> str:
    count = row["kinds"].get(kind, 0.0) / 1e6
    return f"{count:.2f}" if count >= 0.005 else ""


if __name__ == "__main__":
    main()
