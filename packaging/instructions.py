"""Which instructions a built extension has beyond its architecture's first CPU, and from which source file.

The bytes are those of the wheel's extension; names come from the copy that was linked beside it and not stripped
(`python packaging/instructions.py dist/some.whl build/wheels/ARCH/_core.*.so`).
Capstone names, for every ARM instruction, the features that LLVM's tables ask for; on x86-64 the prefix of AVX's
encodings says more than its groups do.
"""

from __future__ import annotations

import bisect
import io
import sys
import zipfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import capstone
from elftools.elf.elffile import ELFFile

if TYPE_CHECKING:
    from collections.abc import Iterator

MACHINES = {"EM_AARCH64": "aarch64", "EM_ARM": "armv7l", "EM_X86_64": "x86_64"}
_MODES = {
    "aarch64": (capstone.CS_ARCH_AARCH64, capstone.CS_MODE_ARM),
    "armv7l": (capstone.CS_ARCH_ARM, capstone.CS_MODE_ARM),
    "x86_64": (capstone.CS_ARCH_X86, capstone.CS_MODE_64),
}

# What an instruction does, not which CPU has it.
_KINDS = frozenset("call jump return ret int privilege branch_relative mode64".split())
BASELINE = {
    "aarch64": _KINDS | {"HasFPARMv8", "HasNEON"},
    "armv7l": _KINDS
    | frozenset(
        """
        IsARM HasV4T HasV5T HasV5TE HasV6 HasV6K HasV6T2 HasV7 HasDB PreV8
        HasFPRegs HasFPRegs64 HasVFP2 HasVFP3 HasDPVFP HasNEON
        """.split()
    ),
    "x86_64": _KINDS | frozenset("fpu mmx cmov sse1 sse2".split()),
}
# Capstone puts these in no group; nor does it some later ones (popcnt, movbe), so that silence is no proof.
_OLD_X86 = frozenset(
    """
    adc add and bsf bsr bswap bt btc btr bts cbw cdq cdqe cmp cmpsb cmpxchg cpuid cqo cvtsi2sd cvtsi2ss cwde dec div
    endbr64 hlt idiv imul inc int3 lea leave mov movabs movnti movsb movsd movsq movsw movsx movsxd movzx mul neg nop not
    or pextrw pinsrw pop pmovmskb push rcl rcr rol ror sar sbb scasb shl shld shr shrd stosb stosd stosq stosw sub
    syscall test ud2 xadd xchg xor
    """.split()
)
SHF_EXECINSTR = 4
_X86_SEGMENTS = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67")

# What each kernel file may have beyond that, because select_kernels asks the CPU before it takes the file's table.
DISPATCHED = {
    ("x86_64", "kernels_avx2.cpp"): {"VEX"},
    ("x86_64", "kernels_avx512.cpp"): {"VEX", "EVEX"},
    ("x86_64", "kernels_avx512vnni.cpp"): {"VEX", "EVEX"},
    ("x86_64", "preprocess_avx2.cpp"): {"VEX"},
    ("x86_64", "preprocess_avx512.cpp"): {"VEX", "EVEX"},
    ("aarch64", "kernels_neon_dotprod.cpp"): {"HasDotProd"},
    ("armv7l", "kernels_neon.cpp"): {"HasVFP4"},
}
# Outside the kernels, each with why it cannot harm an older CPU.
GUARDED = {
    (
        "x86_64",
        "cpu.cpp",
        "xgetbv",
    ): "run only where CPUID says that the operating system uses XSAVE",
    ("x86_64", "libunwind.cpp", "tzcnt"): "encoded as rep bsf, which is what an older CPU does",
    ("aarch64", "libunwind.cpp", "cntd"): "run only for a frame whose unwind table names SVE's VG",
    (
        "aarch64",
        "libunwind.cpp",
        "stg",
    ): "run only for a frame whose unwind table says memory tagging",
    **{
        ("aarch64", "libunwind.cpp", name): "in za_disable, called only where AT_HWCAP2 has SME"
        for name in ("addsvl", "mrs", "msr", "smstop", "str")
    },
}
# Of AArch64's system instructions, and of the registers that they name, what programs have on every ARMv8.
_BARRIERS = frozenset("clrex dmb dsb isb".split())
_SYSTEM_REGISTERS = frozenset("fpcr fpsr nzcv tpidr_el0".split())


@dataclass(frozen=True)
class Finding:
    """An instruction beyond the baseline."""

    source: str  # the source file's name; "" where no symbol covers it
    function: str
    feature: str
    mnemonic: str


def findings(wheel: bytes, symbols: bytes) -> tuple[str, list[Finding]]:
    """The architecture, and what is beyond it in the extension `wheel`; names from its unstripped copy."""
    elf, named = ELFFile(io.BytesIO(wheel)), ELFFile(io.BytesIO(symbols))
    arch = MACHINES[elf["e_machine"]]
    places = _places(named, arch)
    found = []
    for section in elf.iter_sections():
        if section["sh_flags"] & SHF_EXECINSTR:
            twin = named.get_section_by_name(section.name)
            if twin["sh_addr"] != section["sh_addr"] or twin.data() != section.data():
                raise ValueError(
                    f"{section.name} is not the unstripped copy's: build the wheel again"
                )
            found += list(_in_section(section.data(), section["sh_addr"], places, arch))
    return arch, found


def sources(symbols: bytes) -> set[str]:
    """The source files that an unstripped extension was linked from."""
    symbols_of = ELFFile(io.BytesIO(symbols)).get_section_by_name(".symtab").iter_symbols()
    return {s.name for s in symbols_of if s["st_info"]["type"] == "STT_FILE"}


def unexpected(arch: str, found: list[Finding]) -> list[Finding]:
    """Those that neither dispatch nor a guard keeps from an older CPU."""
    return [
        f
        for f in found
        if f.feature not in DISPATCHED.get((arch, f.source), ())
        and (arch, f.source, f.mnemonic) not in GUARDED
    ]


def features(found: list[Finding]) -> dict[str, Counter[str]]:
    """How often each source file has each feature."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for one in found:
        counts[one.source][one.feature] += 1
    return dict(counts)


@dataclass(frozen=True, order=True)
class _Place:
    """From this address on: code (or data between it) of one function."""

    address: int
    source: str
    function: str
    is_code: bool = True


def _places(elf: ELFFile, arch: str) -> list[_Place]:
    """By address. The linker lists a file's local symbols after its name, hidden ones too."""
    source, functions, marks = "", {}, {}
    # Sections that are not loaded have marks too, at addresses from 0 on that mean nothing here.
    code = {
        i for i, section in enumerate(elf.iter_sections()) if section["sh_flags"] & SHF_EXECINSTR
    }
    for symbol in elf.get_section_by_name(".symtab").iter_symbols():
        kind, address = symbol["st_info"]["type"], symbol["st_value"]
        if kind == "STT_FILE":
            source = symbol.name
        elif kind == "STT_FUNC" and symbol["st_shndx"] != "SHN_UNDEF":
            if arch == "armv7l" and address & 1:
                raise ValueError(
                    f"{symbol.name} is Thumb code, which the compiler was not asked for"
                )
            functions[address] = (
                source if symbol["st_info"]["bind"] == "STB_LOCAL" else "",
                symbol.name,
            )
            functions.setdefault(address + symbol["st_size"], ("", ""))
        elif symbol.name[:2] in ("$a", "$x", "$d") and symbol["st_shndx"] in code:
            marks[address] = symbol.name[1] != "d"
    places, owner, is_code = [], ("", ""), True
    for address in sorted({*functions, *marks}):
        owner, is_code = functions.get(address, owner), marks.get(address, is_code)
        places.append(_Place(address, *owner, is_code))
    return places


def _in_section(data: bytes, start: int, places: list[_Place], arch: str) -> Iterator[Finding]:
    decoder = capstone.Cs(*_MODES[arch])
    decoder.detail = True
    decoder.skipdata = True  # what it cannot decode comes as id 0 and is reported
    end = start + len(data)
    first = max(bisect.bisect_right(places, start, key=lambda place: place.address) - 1, 0)
    inside = [place for place in places[first:] if place.address < end]
    for place, after in zip(inside, [*(place.address for place in inside[1:]), end]):
        if not place.is_code:
            continue
        at = max(place.address, start)
        for instruction in decoder.disasm(data[at - start : after - start], at):
            for feature in _beyond(instruction, arch):
                yield Finding(place.source, place.function, feature, instruction.mnemonic)


def _beyond(instruction: capstone.CsInsn, arch: str) -> set[str]:
    if instruction.id == 0:
        return {"undecodable"}
    groups = {instruction.group_name(group) for group in instruction.groups}
    if arch == "aarch64" and _is_new_system(instruction):
        return {"system"}
    if arch != "x86_64":
        return groups - BASELINE[arch]
    opcode = bytes(instruction.bytes).lstrip(bytes(_X86_SEGMENTS))
    if opcode[0] in (0xC4, 0xC5):
        return {"VEX"}
    if opcode[0] == 0x62:
        return {"EVEX"}
    name = instruction.mnemonic.split()[-1]  # after lock or rep
    known = groups & {"fpu", "mmx", "cmov", "sse1", "sse2", "call", "jump", "ret"}
    is_old = known or name in _OLD_X86 or name.startswith("set")
    return (groups - BASELINE[arch]) or (set() if is_old else {name})


def _is_new_system(instruction: capstone.CsInsn) -> bool:
    """Of these, which Capstone puts in no group, all hints (mask of Arm's manual, C4.1.66) do nothing on an older CPU."""
    word = int.from_bytes(instruction.bytes, "little")
    if word & 0xFFC00000 != 0xD5000000 or word & 0xFFFFF01F == 0xD503201F:
        return False
    names = set(instruction.op_str.lower().split(", "))
    return not (instruction.mnemonic in _BARRIERS or names & _SYSTEM_REGISTERS)


def extension(wheel: Path) -> bytes:
    """The one shared object of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".so"))
        return archive.read(name)


def problems(wheel: Path, linked: Path) -> list[str]:
    """What an older CPU could meet in a wheel, of which `linked` is the extension with its symbols."""
    arch, found = findings(extension(wheel), linked.read_bytes())
    wrong = Counter((f.source or "?", f.feature, f.mnemonic) for f in unexpected(arch, found))
    return [
        f"{source} has {feature}: {name}, {n} times" for (source, feature, name), n in wrong.items()
    ]


def main(wheel: Path, linked: Path) -> int:
    arch, found = findings(extension(wheel), linked.read_bytes())
    for source, counts in sorted(features(found).items()):
        print(f"{arch} {source}: {', '.join(f'{n} {name}' for name, n in sorted(counts.items()))}")
    wrong = problems(wheel, linked)
    print("\n".join(wrong or ["nothing unexpected"]))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
