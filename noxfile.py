"""Tasks: `nox -s tests`, train, lint, sanitize, wheel, wheels, emulated. Each makes its own environment."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2024.3"
nox.options.sessions = ["tests", "lint", "sanitize"]
nox.options.default_venv_backend = "venv"

PYPROJECT = nox.project.load_toml("pyproject.toml")
# Where the core is, so where a sanitizer has something to see.
CORE_TESTS = [
    f"tests/test_{name}.py"
    for name in ("preprocess", "priors", "decode", "nms", "native", "quantized", "tengine")
]
TORCH_TESTS = [
    "tests/test_torch_backend.py",
    *(str(path) for path in sorted(Path("tests").glob("test_train_*.py"))),
]
WHEEL_TESTS = [str(path) for path in sorted(Path("tests").glob("test_wheel_*.py"))]


def install_group(session: nox.Session, group: str) -> None:
    session.install(*nox.project.dependency_groups(PYPROJECT, group))


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite on the installed package; arguments go to pytest (`-- -m "not slow"`)."""
    install_group(session, "test")
    session.install(".")
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session
def train(session: nox.Session) -> None:
    """The tests of training and of the backend torch, which need PyTorch."""
    install_group(session, "test")
    install_group(session, "train")
    session.install(".")
    session.run("pytest", *session.posargs, *TORCH_TESTS)


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, lint and types of Python; formatting of C++; spelling."""
    install_group(session, "lint")
    session.install("numpy")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    sources = sorted(str(p) for d in ("cpp", "tests/cpp") for p in Path(d).rglob("*.[ch]*"))
    session.run("clang-format", "--dry-run", "--Werror", *(s for s in sources if s[-1] in "hp"))
    session.run("codespell", "src", "cpp", "tests", "benchmarks", *map(str, Path().glob("*.md")))


@nox.session
def sanitize(session: nox.Session) -> None:
    """The C++ tests plainly and under three sanitizers; then the core's Python tests under two."""
    session.install("cmake", "ninja", "pybind11", "scikit-build-core")
    for preset in ("default", "asan", "tsan"):
        session.run("cmake", "--preset", preset)
        session.run("cmake", "--build", "--preset", preset)
        session.run("ctest", "--preset", preset)
    install_group(session, "test")
    session.install(
        "--no-build-isolation", ".", *defines(SANITIZE="address,undefined", WERROR="ON")
    )
    environment = {
        # Python itself is not instrumented, so the runtimes must be there first; it leaks by design.
        "LD_PRELOAD": " ".join(
            runtime(name) for name in ("libasan.so", "libubsan.so", "libstdc++.so")
        ),
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    session.run("pytest", "-m", "not slow", "-p", "no:xdist", *CORE_TESTS, env=environment)


@nox.session
def sdist(session: nox.Session) -> None:
    """A source distribution in dist/, and the package that pip makes of it."""
    session.install("build")
    session.run("python", "-m", "build", "--sdist", "--outdir", "dist", ".")
    (archive,) = Path("dist").glob(f"edgeface-{PYPROJECT['project']['version']}.tar.gz")
    session.install("--force-reinstall", str(archive))
    session.chdir(session.create_tmp())  # not the working tree
    session.run("edgeface", "doctor")


@nox.session
def wheels(session: nox.Session) -> None:
    """Wheels for boards and x86-64, checked, in dist/; `-- --arch aarch64 --python 3.11` picks some."""
    install_group(session, "wheels")
    session.run("pytest", *WHEEL_TESTS)
    session.run("python", "packaging/wheels.py", *session.posargs)


@nox.session
def emulated(session: nox.Session) -> None:
    """Wheels for one Python, and the core's tests, C++ and Python, on CPUs that they are for, under qemu."""
    install_group(session, "wheels")
    session.install("numpy", "opencv-python-headless")
    reason = session.run("python", "packaging/debian.py", silent=True)
    if reason and reason.strip():
        session.skip(f"no packages for an emulated machine: {reason.strip()}")
    session.run("python", "packaging/emulate.py", "--fetch")
    built = Path("build", "emulated", "wheels").absolute()
    shutil.rmtree(built, ignore_errors=True)
    session.run("python", "packaging/wheels.py", "--tests", "--python", "3.11", "--out", str(built))
    session.run("pytest", *WHEEL_TESTS, env={"EDGEFACE_WHEELS": str(built)})
    session.run("python", "packaging/emulate.py", "--wheels", str(built), *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """A wheel for this machine, in dist/."""
    session.install("build")
    session.run("python", "-m", "build", "--wheel", "--outdir", "dist", ".")


def defines(**values: str) -> list[str]:
    return [
        argument
        for name, value in values.items()
        for argument in ("-C", f"cmake.define.EDGEFACE_{name}={value}")
    ]


def runtime(library: str) -> str:
    """Where the compiler keeps one of its libraries."""
    command = ["g++", f"-print-file-name={library}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
