"""What a wheel of ours has to be: `python packaging/check_wheel.py dist/*.whl` prints what is wrong, and fails.

auditwheel says which platforms its libraries and symbols allow; what it does not ask (more exports than one, a C++
runtime left outside, a missing file, the size) is read from the wheel here.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

import debian
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parents[1]
GLIBC = (2, 17)
PLATFORMS = ("manylinux2014", "manylinux_2_17")  # two names for one thing; old pips know the first
MAX_BYTES = 2_000_000
# glibc's own. No C++ runtime: a board's is older than the compiler's.
LIBRARIES = frozenset(
    """
    libc.so.6 libm.so.6 libpthread.so.0 libdl.so.2
    ld-linux-x86-64.so.2 ld-linux-aarch64.so.1 ld-linux-armhf.so.3
    """.split()
)
MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64", "EM_ARM": "armv7l"}
EF_ARM_ABI_FLOAT_HARD = 0x400
NOT_SHIPPED = re.compile(r"__pycache__/|(^|/)\.|\.pyi\.in$|\.so$")


@dataclass(frozen=True)
class Extension:
    """A shared object as the dynamic linker sees it."""

    arch: str
    libraries: frozenset[str]
    exports: frozenset[str]
    glibc: tuple[int, ...]  # the newest version of a symbol that it asks for
    has_run_path: bool
    has_symbols: bool


def problems(wheel: Path, root: Path) -> list[str]:
    """Whatever keeps this wheel, built from the tree `root`, from being published; empty when nothing does."""
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    arch, python, found = read_tags(wheel.name, files)
    found += content_problems(frozenset(files), sources(root), wheel.stat().st_size)
    expected = f"edgeface/_core.cpython-{python[2:]}-{debian.TRIPLETS.get(arch, '?')}.so"
    extensions = [name for name in files if re.search(r"\.so(\.|$)", name)]
    if extensions != [expected]:
        return [*found, f"its shared objects are {extensions}, not {expected}"]
    found += extension_problems(read_extension(files[expected]), arch)
    return found + platform_problems(audit(wheel), arch)


def read_tags(name: str, files: dict[str, bytes]) -> tuple[str, str, list[str]]:
    """Architecture, interpreter tag and what is wrong with either; "" for what cannot be told."""
    project, _, _, tags = parse_wheel_filename(name)
    found = [] if project == "edgeface" else [f"its name is {project}"]
    (metadata,) = (n for n in files if n.endswith(".dist-info/WHEEL"))
    inside = Parser().parsestr(files[metadata].decode()).get_all("Tag", [])
    if set(inside) != {str(tag) for tag in tags}:
        found.append(f"its WHEEL file says {', '.join(inside)}")
    platforms = {tag.platform for tag in tags}
    arch = next((a for a in debian.TRIPLETS if platforms == {f"{p}_{a}" for p in PLATFORMS}), "")
    interpreters = {tag.interpreter for tag in tags}
    python = interpreters.pop() if interpreters == {tag.abi for tag in tags} else ""
    if not arch:
        found.append(f"its platforms are {', '.join(sorted(platforms))}")
    if not re.fullmatch(r"cp3\d+", python):
        found.append("its interpreter and ABI are not one CPython's")
    return arch, python, found


def sources(root: Path) -> frozenset[str]:
    """Every file that has to be in the wheel."""
    package = root / "src"
    files = (p.relative_to(package).as_posix() for p in package.rglob("*") if p.is_file())
    models = (f"edgeface/models/{p.name}" for p in (root / "models").glob("*[0-9]-int8.*"))
    return frozenset(name for name in (*files, *models) if not NOT_SHIPPED.search(name))


def content_problems(names: frozenset[str], wanted: frozenset[str], size: int) -> list[str]:
    found = [f"{size:,} bytes are more than {MAX_BYTES:,}"] if size > MAX_BYTES else []
    found += [f"{name} is missing" for name in sorted(wanted - names)]
    for ending in (".dist-info/entry_points.txt", ".dist-info/licenses/LICENSE"):
        if not any(name.endswith(ending) for name in names):
            found.append(f"*{ending} is missing")
    strangers = (n for n in names - wanted if not n.startswith(("edgeface/_core.", "edgeface-")))
    return found + [f"{name} does not belong there" for name in sorted(strangers)]


def read_extension(data: bytes) -> Extension:
    elf = ELFFile(io.BytesIO(data))
    tags = [t for s in elf.iter_sections() if isinstance(s, DynamicSection) for t in s.iter_tags()]
    needed = (s for s in elf.iter_sections() if isinstance(s, GNUVerNeedSection))
    versions = (a.name for s in needed for _, auxiliary in s.iter_versions() for a in auxiliary)
    numbers = (re.fullmatch(r"GLIBC_([\d.]+)", version) for version in versions)
    symbols = elf.get_section_by_name(".dynsym").iter_symbols()
    arch = MACHINES.get(elf["e_machine"], elf["e_machine"])
    if arch == "armv7l" and not elf["e_flags"] & EF_ARM_ABI_FLOAT_HARD:
        arch = "ARM with soft floats"
    return Extension(
        arch=arch,
        libraries=frozenset(t.needed for t in tags if t.entry.d_tag == "DT_NEEDED"),
        exports=frozenset(s.name for s in symbols if s.name and s["st_shndx"] != "SHN_UNDEF"),
        glibc=max((tuple(map(int, n[1].split("."))) for n in numbers if n), default=(0,)),
        has_run_path=any(t.entry.d_tag in ("DT_RPATH", "DT_RUNPATH") for t in tags),
        has_symbols=elf.get_section_by_name(".symtab") is not None,
    )


def extension_problems(extension: Extension, arch: str) -> list[str]:
    found = [] if extension.arch == arch else [f"its extension is for {extension.arch}"]
    outside = extension.libraries - LIBRARIES
    found += [f"it needs the library {name}" for name in sorted(outside)]
    if extension.glibc > GLIBC:
        found.append(f"it needs glibc {'.'.join(map(str, extension.glibc))}")
    if extension.exports != {"PyInit__core"}:
        others = sorted(extension.exports ^ {"PyInit__core"})
        found.append(f"its exports are not PyInit__core alone: {', '.join(others[:4])}")
    if extension.has_run_path:
        found.append("it looks for libraries in a path of its own")
    if extension.has_symbols:
        found.append("its extension is not stripped")
    return found


def audit(wheel: Path) -> dict[str, object]:
    """What auditwheel itself reports."""
    command = [sys.executable, "-m", "auditwheel", "show", "--json", str(wheel)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        return {"error": (done.stdout + done.stderr).strip()}
    report: dict[str, object] = json.loads(done.stdout)
    return report


def platform_problems(report: dict[str, object], arch: str) -> list[str]:
    if "error" in report:
        return [f"auditwheel: {report['error']}"]
    found = ["auditwheel: it asks for a newer CPU"] if report["unsupported_isa"] else []
    platform = re.fullmatch(r"manylinux_(\d+)_(\d+)_(\w+)", str(report["overall_tag"]))
    is_met = platform and (int(platform[1]), int(platform[2])) <= GLIBC and platform[3] == arch
    return found if is_met else [*found, f"auditwheel: it is {report['overall_tag']}"]


def main(wheels: list[Path]) -> int:
    found = {wheel: problems(wheel, ROOT) for wheel in wheels}
    for wheel, wrong in found.items():
        print("\n  ".join([f"{wheel.name}: {'WRONG' if wrong else 'ok'}", *wrong]))
    return int(any(found.values()) or not found)


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]]))
