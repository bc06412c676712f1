"""Runs the core's tests on the built wheels, on CPUs that this machine does not have, under qemu's user mode.

`nox -s emulated` builds the wheels and runs it; `-- --environment armv7l-cortex-a7 -- -k nms` picks. The C++ tests
that `packaging/wheels.py --tests` built run there, too. Debian packages make the foreign roots and bring qemu, without
root, container or binfmt_misc. What is downloaded stays in the user's cache folder, the rest is in build/emulated:
`build/emulated/NAME/python` is that machine's Python, and `build/emulated/NAME/run` any other program's start.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import debian

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
BUILD = ROOT / "build" / "emulated"
SHARED = ROOT.parent / "shared"
PYTHON = "3.11"  # of Debian 12, whose glibc (2.36) suits onnxruntime's wheels
SUITE = "bookworm"
# Debian 13's qemu 10 is linked statically, gives programs an ARM /proc/cpuinfo (onnxruntime's cpuinfo library dies of
# the host's) and starts threads in forked children; 7.2 does none of these.
QEMU_SUITE = "trixie"
QEMUS = {"aarch64": "qemu-aarch64", "armv7l": "qemu-arm", "x86_64": "qemu-x86_64"}

_TOOLS = ("pytest>=8", "hypothesis>=6.100")
# No numpy, onnxruntime or OpenCV for 32-bit ARM is on PyPI. PyPI's numpy for x86-64 does not start on qemu64.
REQUIREMENTS = {
    "aarch64": (*_TOOLS, "numpy", "onnxruntime", "opencv-python-headless"),
    "armv7l": _TOOLS,
    "x86_64": _TOOLS,
}
_BASE = (f"python{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", "libstdc++6")
PACKAGES = {
    "aarch64": _BASE,
    "armv7l": (*_BASE, "python3-numpy"),
    "x86_64": (*_BASE, "python3-numpy"),
}
# What wheels may call the platform that SUITE is.
_PLATFORMS = (
    "manylinux2014",
    "manylinux_2_17",
    "manylinux_2_27",
    "manylinux_2_28",
    "manylinux_2_34",
)

# Where the machine matters: arithmetic, memory, threads, and damaged files that must end in an error there as well.
CORE = """
    environment preprocess priors decode nms native quantized tmfile fuzz detector backends camera cpu bundled_models
    photograph
""".split()
KERNELS = "environment native quantized photograph".split()
OLDEST = "environment nms bundled_models photograph".split()
# The C++ tests, with their arguments; fuzz targets take how many inputs to make.
PROGRAMS: dict[str, tuple[str, ...]] = {
    "allocations": (),
    "isas": (),
    "pool": (),
    "preprocess": (),
    "threads": (),
    "fuzz_core": ("500",),
    "fuzz_network": ("500",),
}


@dataclass(frozen=True)
class Environment:
    """A machine, and what is tried on it."""

    arch: str
    cpu: str
    isas: str  # that it has to have
    tests: tuple[str, ...]
    tried: tuple[str, ...] = ()  # only these of its ISAs, where another environment tries the rest

    @property
    def name(self) -> str:
        return f"{self.arch}-{self.cpu}"


ENVIRONMENTS = (
    Environment("aarch64", "cortex-a53", "neon scalar", tuple(CORE)),
    Environment("armv7l", "cortex-a7", "neon scalar", tuple(CORE)),
    Environment("aarch64", "max", "neon_dotprod neon scalar", tuple(KERNELS), ("neon_dotprod",)),
    # The oldest of each that the wheels are for: no VFPv4, no AVX. Scalar code, which others have tried: does it run?
    Environment("armv7l", "cortex-a8", "scalar", tuple(OLDEST)),
    Environment("x86_64", "qemu64", "scalar", tuple(OLDEST)),
)
# Of a test that no ISA matters to; and of Hypothesis's examples. tests/emulated/sample.py chooses.
CASES, EXAMPLES = 4, 8


class MissingError(Exception):
    """What this machine lacks, for a skip to name."""


# --- What is unpacked and installed ----------------------------------------------------------------


def cached(name: str, request: object, make: Callable[[Path], object]) -> Path:
    """The folder `name` of the cache, made again when what was asked for changed."""
    folder, stamp = debian.CACHE / name, debian.CACHE / f"{name}.json"
    wanted = json.dumps(request)
    if not (folder.is_dir() and stamp.is_file() and stamp.read_text() == wanted):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        stamp.write_text(wanted)
    return folder


def qemus() -> Path:
    """A folder with the three emulators."""

    def unpack(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as unpacked:
            debian.unpack(QEMU_SUITE, "x86_64", ("qemu-user",), Path(unpacked), dependencies=False)
            for name in QEMUS.values():
                shutil.move(Path(unpacked, "usr", "bin", name), folder / name)

    return cached("qemu", QEMU_SUITE, unpack)


def foreign_root(arch: str) -> Path:
    packages = PACKAGES[arch]
    return cached(
        f"root-{arch}", [SUITE, packages], lambda to: debian.unpack(SUITE, arch, packages, to)
    )


def foreign_packages(arch: str) -> Path:
    return cached(
        f"site-{arch}", REQUIREMENTS[arch], lambda to: install(arch, REQUIREMENTS[arch], to)
    )


def fetch(environments: list[Environment]) -> None:
    """Everything that comes from elsewhere, before anybody waits for a build."""
    qemus()
    for arch in sorted({environment.arch for environment in environments}):
        foreign_root(arch)
        foreign_packages(arch)


def install(
    arch: str, requirements: tuple[str, ...], into: Path, *, options: tuple[str, ...] = ()
) -> None:
    """Has pip choose wheels for `arch`."""
    tag = PYTHON.replace(".", "")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(into), *options]
    command += [
        "--only-binary=:all:",
        "--no-compile",
        "--implementation=cp",
        f"--python-version={PYTHON}",
    ]
    command += [f"--abi={abi}" for abi in (f"cp{tag}", "abi3", "none")]
    command += [f"--platform={platform}_{arch}" for platform in _PLATFORMS]
    done = subprocess.run([*command, *requirements], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise MissingError(
            f"pip could not install {' '.join(requirements)} for {arch}: {done.stderr[-500:]}"
        )


def decode_photographs() -> Path | None:
    """The photographs' pixels, for machines without OpenCV; None where there are none or no OpenCV here."""
    try:
        import cv2
        import numpy as np
    except ImportError:
        return None
    images = sorted((SHARED / "images").glob("*.jpg"))
    folder = BUILD / "photographs"
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        pixels = cv2.imread(str(image))
        assert pixels is not None, image
        np.save(folder / f"{image.name}.npy", pixels)
    return folder if images else None


# --- Running ---------------------------------------------------------------------------------------


def make_python(environment: Environment, wheels: Path, photographs: Path | None) -> Path:
    """A script that is that machine's Python, edgeface's wheel among its packages."""
    arch, folder = environment.arch, BUILD / environment.name
    shutil.rmtree(folder, ignore_errors=True)
    (wheel,) = wheels.glob(f"edgeface-*-cp{PYTHON.replace('.', '')}-*manylinux_2_17_{arch}.whl")
    install(arch, (str(wheel),), folder / "site", options=("--no-deps",))
    root, script = foreign_root(arch), folder / "python"
    # Child processes are started from the script: the kernel does not know what to do with a foreign one.
    startup = f"import sys\nsys.executable = {str(script)!r}\n"
    (folder / "site" / "sitecustomize.py").write_text(startup)
    libraries = root / "usr" / "lib" / debian.TRIPLETS[arch]
    paths = (folder / "site", foreign_packages(arch), TESTS / "emulated")
    variables = {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
        # Debian chooses one of several by links that only an installation makes.
        "LD_LIBRARY_PATH": os.pathsep.join(str(libraries / name) for name in ("blas", "lapack")),
        "EDGEFACE_EMULATED": f"{arch} {environment.isas}",
        **({} if photographs is None else {"EDGEFACE_PHOTOGRAPHS": str(photographs)}),
    }
    start = f"exec '{qemus() / QEMUS[arch]}' -cpu {environment.cpu} -L '{root}'"
    settings = " ".join(f"-E '{name}={value}'" for name, value in variables.items())
    python = root / "usr" / "bin" / f"python{PYTHON}"
    write_script(folder / "run", f'{start} "$@"')
    write_script(script, f"{start} {settings} '{python}' \"$@\"")
    return script


def write_script(path: Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)


def test_files(names: tuple[str, ...]) -> list[str]:
    places = (TESTS / "emulated" / "test_{}.py", TESTS / "test_{}.py")
    files = [Path(str(place).format(name)) for name in names for place in places]
    return [str(path.relative_to(ROOT)) for path in files if path.is_file()]


@dataclass(frozen=True)
class Result:
    """What came of one environment's tests."""

    environment: Environment
    language: str
    counts: Counter[str]  # passed, skipped, failed
    skips: Counter[str]  # reasons
    seconds: float
    cpu_seconds: float  # of all its processes: a busy machine lengthens only the other
    output: str

    @property
    def is_right(self) -> bool:
        # Whoever did not build the C++ tests does not want them.
        was_tried = self.counts["passed"] > 0 or self.language == "C++"
        return was_tried and self.counts["failed"] == 0


def run_measured(command: list[str], log: Path) -> tuple[int, str, float]:
    """Exit status, what it printed to `log`, and the CPU's seconds, those of child processes included."""
    with log.open("w+", errors="replace") as printed:
        process = subprocess.Popen(command, cwd=ROOT, stdout=printed, stderr=subprocess.STDOUT)
        # subprocess itself tells only of all children together, and here two run at once.
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        return process.returncode, printed.read(), used.ru_utime + used.ru_stime


def run_tests(environment: Environment, python: Path, pytest_arguments: list[str]) -> Result:
    report, started = python.with_name("report.xml"), time.monotonic()
    command = [str(python), *"-m pytest -p no:cacheprovider -q --tb=short --no-showlocals".split()]
    command += ["-m", "not slow", "-p", "sample", f"--cases={CASES}", f"--examples={EXAMPLES}"]
    command += [f"--isa={isa}" for isa in environment.tried]
    command += [f"--junitxml={report}", *pytest_arguments, *test_files(environment.tests)]
    status, output, cpu_seconds = run_measured(command, python.with_name("pytest.log"))
    counts, skips = Counter({"passed": 0, "skipped": 0, "failed": 0}), Counter[str]()
    for case in ET.parse(report).iter("testcase") if report.is_file() else ():
        skipped = case.find("skipped")
        failed = case.find("failure") is not None or case.find("error") is not None
        counts["failed" if failed else "passed" if skipped is None else "skipped"] += 1
        if skipped is not None:
            skips[skipped.get("message", "")] += 1
    if status != 0 and counts["failed"] == 0:  # it died
        counts["failed"] = 1
    seconds = time.monotonic() - started
    return Result(environment, "Python", counts, skips, seconds, cpu_seconds, output)


def run_programs(environment: Environment, start: Path) -> Result:
    """The same of the C++ tests."""
    built = ROOT / "build" / "wheels" / environment.arch / "tests" / "cpp"
    counts, skips = Counter({"passed": 0, "skipped": 0, "failed": 0}), Counter[str]()
    started, output, cpu_seconds = time.monotonic(), "", 0.0
    for name, arguments in PROGRAMS.items():
        program = built / f"test_{name}"
        if not program.is_file():
            counts["skipped"] += 1
            skips["packaging/wheels.py --tests did not build it"] += 1
            continue
        command = [str(start), str(program), *arguments]
        status, printed, used = run_measured(command, start.with_name(f"{name}.log"))
        cpu_seconds += used
        counts["passed" if status == 0 else "failed"] += 1
        if status != 0:
            output += f"{program.name}: status {status}\n{printed}"
    seconds = time.monotonic() - started
    return Result(environment, "C++", counts, skips, seconds, cpu_seconds, output)


def show(result: Result) -> None:
    counts = ", ".join(f"{count} {what}" for what, count in result.counts.items())
    name = f"{result.environment.name}, {result.language}"
    seconds = f"{result.seconds:.0f} s, {result.cpu_seconds:.0f} s of a CPU"
    print(f"{name:<26} {counts}; {seconds}", flush=True)
    for reason, count in sorted(result.skips.items()):
        print(f"    {count} skipped: {reason}")
    if not result.is_right:
        print(result.output[-6000:], flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", nargs="+", choices=[e.name for e in ENVIRONMENTS])
    parser.add_argument("--wheels", type=Path, default=ROOT / "dist", help="default: dist/")
    parser.add_argument("--fetch", action="store_true", help="only what has to be downloaded")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    options = parser.parse_args()
    chosen = [
        e for e in ENVIRONMENTS if options.environment is None or e.name in options.environment
    ]
    if options.fetch:
        fetch(chosen)
        return 0
    photographs = decode_photographs()
    pythons = {e: make_python(e, options.wheels, photographs) for e in chosen}
    are_right = True
    # One on each CPU, those that take longest first.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = [
            pool.submit(run_tests, e, python, options.pytest) for e, python in pythons.items()
        ]
        running += [
            pool.submit(run_programs, e, python.with_name("run")) for e, python in pythons.items()
        ]
        for one in as_completed(running):
            show(one.result())
            are_right &= one.result().is_right
    return int(not are_right)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (MissingError, debian.UnavailableError) as error:
        sys.exit(f"cannot emulate here: {error}")
