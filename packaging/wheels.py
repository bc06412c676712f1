"""Builds edgeface's wheels for x86-64, aarch64 and armv7l, for every CPython, on one x86-64 Linux machine.

`nox -s wheels` runs it with its dependency group; `-- --arch aarch64 --python 3.11` picks. Compiler, headers and
stubs of glibc come from zig, so no container, no root and no cross toolchain is needed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import check_wheel
import debian
import headers
import instructions
import ziglang
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
TOOLCHAINS = Path(__file__).resolve().parent / "toolchains"
BUILD = ROOT / "build" / "wheels"
ARCHITECTURES = ("aarch64", "armv7l", "x86_64")
PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")


def main() -> int:
    options = parse_options()
    wanted = [(arch, python) for arch in options.arch for python in options.python or PYTHONS]
    left_out: list[str] = []
    failures = 0
    with tqdm(wanted, unit="wheel", disable=None) as bar:
        for arch, python in bar:
            bar.set_description(f"{arch} {python}")
            try:
                started = time.monotonic()
                wheel = build_wheel(arch, python, options.out, tests=options.tests)
            except headers.MissingHeadersError as error:
                left_out.append(f"{arch} {python}: {error}")
                continue
            problems = check_wheel.problems(wheel, ROOT)
            problems += instructions.problems(wheel, unstripped(arch, python))
            failures += bool(problems)
            tqdm.write(report(wheel, time.monotonic() - started, problems))
    for line in left_out:
        print(f"left out: {line}")
    # Whoever named a version wants that one; the list of all is what the machine can do.
    return 1 if failures or (left_out and options.python) else 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--python", nargs="+", metavar="X.Y", help=f"default: {' '.join(PYTHONS)}")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="default: dist/")
    parser.add_argument(
        "--tests", action="store_true", help="also the C++ tests, in build/wheels/ARCH/tests/cpp"
    )
    return parser.parse_args()


def report(wheel: Path, seconds: float, problems: list[str]) -> str:
    size = f"{wheel.stat().st_size / 1e3:5.0f} KB {seconds:5.1f} s"
    verdict = "WRONG" if problems else "checked"
    return "\n    ".join([f"{wheel.name}  {size}  {verdict}", *problems])


def build_wheel(arch: str, python: str, out: Path, *, tests: bool = False) -> Path:
    """The wheel's path. The extension with its symbols stays where `unstripped` says."""
    include = BUILD / "headers" / f"{arch}-{python}"
    headers.copy_headers(python, arch, include)
    tag = f"cp{python.replace('.', '')}"
    settings = {
        # One folder for all versions: all but the bindings is compiled once.
        "build-dir": BUILD / arch,
        "cmake.toolchain-file": TOOLCHAINS / f"{arch}.cmake",
        "cmake.python-hints": "false",
        "cmake.define.EDGEFACE_WERROR": "ON",
        "cmake.define.EDGEFACE_TESTS": "ON" if tests else "OFF",
        "cmake.define.PYBIND11_USE_CROSSCOMPILING": "ON",
        "cmake.define.Python_INCLUDE_DIR": include,
        "cmake.define.PYTHON_MODULE_EXTENSION": suffix(arch, python),
        "cmake.define.PYTHON_MODULE_DEBUG_POSTFIX": "",
        "wheel.tags": ";".join(
            f"{tag}-{tag}-{platform}_{arch}" for platform in check_wheel.PLATFORMS
        ),
    }
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    for name, value in settings.items():
        command += ["-C", f"{name}={value}"]
    done = subprocess.run(
        [*command, str(ROOT)], env=environment(), check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise SystemExit(f"{arch} {python}: {done.stdout[-6000:]}{done.stderr[-2000:]}")
    return out / done.stdout.split("Successfully built ")[1].strip()


def suffix(arch: str, python: str) -> str:
    return f".cpython-{python.replace('.', '')}-{debian.TRIPLETS[arch]}.so"


def unstripped(arch: str, python: str) -> Path:
    """The extension as it was linked last, of which the wheel has a copy without symbols."""
    return BUILD / arch / f"_core{suffix(arch, python)}"


def environment() -> dict[str, str]:
    zig = Path(ziglang.__file__).with_name("zig")
    cache = str(debian.CACHE / "zig")
    defaults = {
        "SOURCE_DATE_EPOCH": commit_time(),
        "ZIG_GLOBAL_CACHE_DIR": cache,
        "ZIG_LOCAL_CACHE_DIR": cache,
    }
    # strip.py and CMake's own look-ups take the python3 of this environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**defaults, **os.environ, "EDGEFACE_ZIG": str(zig), "PATH": path}


def commit_time() -> str:
    """Of the commit that is built, so that the same sources give the same wheel; 1980 outside a repository."""
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    asked = subprocess.run(command, check=False, capture_output=True, text=True)
    return asked.stdout.strip() or "315619200"


if __name__ == "__main__":
    sys.exit(main())
