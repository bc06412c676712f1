"""No illegal instruction: what an older CPU of each architecture lacks is in dispatched kernels alone."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

instructions = pytest.importorskip(
    "instructions", reason="capstone (dependency group wheels) is not here"
)

ROOT = Path(__file__).resolve().parents[1]
# `nox -s wheels` says where it put what it built.
WHEELS = sorted(Path(os.environ.get("EDGEFACE_WHEELS", os.devnull)).glob("*manylinux*.whl"))
LINKED = ROOT / "build" / "wheels"  # by architecture, with symbols


def decoded(arch, code):
    """The features beyond the baseline of every instruction in it."""
    places = [instructions._Place(0, "some.cpp", "f")]
    return [f.feature for f in instructions._in_section(bytes.fromhex(code), 0, places, arch)]


# --- What counts -----------------------------------------------------------------------------------

# Encodings from the architectures' manuals, little-endian.
OLD = {
    "x86_64": {
        "add eax, ecx": "01c8",
        "addps xmm0, xmm1": "0f58c1",
        "addpd xmm0, xmm1": "660f58c1",
        "cmovne eax, ecx": "0f45c1",
        "cpuid": "0fa2",
        "endbr64": "f30f1efa",
        "lock xadd [rdi], eax": "f00fc107",
        "mfence": "0faef0",
        "pinsrw xmm0, eax, 0": "660fc4c000",
        "rep movsb": "f3a4",
        "setne al": "0f95c0",
        "syscall": "0f05",
    },
    "aarch64": {
        "fmla v0.4s, v1.4s, v2.4s": "20cc224e",
        "fcvt h0, s1": "20c0231e",
        "ldaxr w0, [x1]": "20fc5f88",
        "smull v0.8h, v1.8b, v2.8b": "20c0220e",
        "paciasp": "3f2303d5",
        "bti c": "5f2403d5",
        "dmb ish": "bf3b03d5",
        "mrs x8, tpidr_el0": "48d03bd5",
    },
    "armv7l": {
        "vmla.f32 q0, q1, q2": "540d02f2",
        "vadd.f64 d0, d1, d2": "020b31ee",
        "movw r0, #1": "010000e3",
        "ldrd r0, [r2]": "d000c2e1",
        "dmb ish": "5bf07ff5",
    },
}
NEW = {
    "x86_64": {
        "vaddps ymm0, ymm0, ymm1": "c5fc58c1",
        "vfmadd231ps ymm0, ymm1, ymm2": "c4e275b8c2",
        "vcvtph2ps ymm0, xmm1": "c4e27d13c1",
        "vaddps zmm0, zmm0, zmm1": "62f17c4858c1",
        "vpdpbusd zmm0, zmm1, zmm2": "62f2754850c2",
        "andn eax, ecx, edx": "c4e270f2c2",
        "haddps xmm0, xmm1": "f20f7cc1",
        "pshufb xmm0, xmm1": "660f3800c1",
        "palignr xmm0, xmm1, 1": "660f3a0fc101",
        "pmulhrsw xmm0, xmm1": "660f380bc1",
        "pmulld xmm0, xmm1": "660f3840c1",
        "roundps xmm0, xmm1, 0": "660f3a08c100",
        "pcmpgtq xmm0, xmm1": "660f3837c1",
        "crc32 eax, ecx": "f20f38f1c1",
        "popcnt eax, ecx": "f30fb8c1",
        "lzcnt eax, ecx": "f30fbdc1",
        "tzcnt eax, ecx": "f30fbcc1",
        "movbe eax, [rcx]": "0f38f001",
        "adcx eax, ecx": "660f38f6c1",
        "aesenc xmm0, xmm1": "660f38dcc1",
        "pclmulqdq xmm0, xmm1, 0": "660f3a44c100",
        "rdrand eax": "0fc7f0",
        "cmpxchg16b [rdi]": "480fc70f",
        "xgetbv": "0f01d0",
        "not an instruction": "06",
    },
    "aarch64": {
        "sdot v2.4s, v0.16b, v1.16b": "0294814e",
        "usdot v0.4s, v1.16b, v2.16b": "209c824e",
        "smmla v0.4s, v1.16b, v2.16b": "20a4824e",
        "fadd v0.8h, v1.8h, v2.8h": "2014424e",
        "fmlal v0.4s, v1.4h, v2.4h": "20ec224e",
        "sqrdmlah v0.4s, v1.4s, v2.4s": "2084826e",
        "bfdot v0.4s, v1.8h, v2.8h": "20fc426e",
        "ldaddal w9, w8, [x8]": "0801e9b8",
        "casal w0, w1, [x2]": "41fce088",
        "swp w0, w0, [x1]": "208020b8",
        "ldapr w0, [x1]": "20c0bfb8",
        "crc32b w0, w1, w0": "2040c01a",
        "aese v0.16b, v1.16b": "2048284e",
        "retaa": "ff0b5fd6",
        "cntd x0": "e0e3e004",
        "mrs x16, tpidr2_el0": "b0d03bd5",
        "smstop za": "7f4403d5",
        "dc cvap, x0": "207c0bd5",
        "not an instruction": "ffffffff",
    },
    "armv7l": {
        "vfma.f32 q0, q0, q0": "500c00f2",
        "vfma.f32 s0, s0, s0": "000aa0ee",
        "sdiv r0, r0, r1": "10f110e7",
        "vcvtb.f32.f16 s0, s0": "400ab2ee",
        "vmaxnm.f32 s0, s0, s0": "000a80fe",
        "lda r0, [r0]": "9f0c90e1",
        "vsdot.s8 d0, d0, d0": "000d20fc",
    },
}


def cases(table):
    return [
        pytest.param(arch, code, id=f"{arch}: {name}")
        for arch, codes in table.items()
        for name, code in codes.items()
    ]


@pytest.mark.parametrize(("arch", "code"), cases(OLD))
def test_the_first_cpus_instructions_are_the_baseline(arch, code):
    assert decoded(arch, code) == []


@pytest.mark.parametrize(("arch", "code"), cases(NEW))
def test_later_cpus_instructions_are_beyond_it(arch, code):
    assert decoded(arch, code)


def test_avx_and_avx512_are_told_apart_by_their_prefixes():
    both = NEW["x86_64"]["vaddps ymm0, ymm0, ymm1"] + NEW["x86_64"]["vaddps zmm0, zmm0, zmm1"]
    assert decoded("x86_64", both) == ["VEX", "EVEX"]


def test_data_between_functions_is_not_decoded():
    code = bytes.fromhex(OLD["armv7l"]["movw r0, #1"] + NEW["armv7l"]["sdiv r0, r0, r1"])
    places = [instructions._Place(0, "a.cpp", "f"), instructions._Place(4, "a.cpp", "f", False)]
    assert not list(instructions._in_section(code, 0, places, "armv7l"))
    assert list(instructions._in_section(code, 0, places[:1], "armv7l"))


def test_only_a_dispatched_file_and_a_guarded_instruction_are_expected():
    def finding(source, feature, mnemonic="sdot"):
        return instructions.Finding(source, "f", feature, mnemonic)

    right = [
        finding("kernels_neon_dotprod.cpp", "HasDotProd"),
        finding("libunwind.cpp", "HasMTE", "stg"),
    ]
    wrong = [
        finding("kernels_neon.cpp", "HasDotProd"),
        finding("kernels_neon_dotprod.cpp", "HasFullFP16"),
        finding("plan.cpp", "HasMTE", "stg"),
        finding("", "HasDotProd"),
    ]
    assert instructions.unexpected("aarch64", right + wrong) == wrong


# --- What was built --------------------------------------------------------------------------------


def built():
    """Every wheel with its unstripped extension, of which there is one a Python and architecture."""
    found = []
    for wheel in WHEELS:
        python, arch = re.search(r"-cp(\d+)-.*manylinux_2_17_(\w+)", wheel.stem).groups()
        linked = sorted((LINKED / arch).glob(f"_core.cpython-{python}-*.so"))
        found += [pytest.param(wheel, linked[0], id=f"{arch}-cp{python}")] if linked else []
    return found


needs_wheels = pytest.mark.skipif(
    not built(), reason="EDGEFACE_WHEELS does not name a folder of wheels that were built here"
)


def examined(wheel, linked):
    return instructions.findings(instructions.extension(wheel), linked.read_bytes())


@needs_wheels
@pytest.mark.parametrize(("wheel", "linked"), built())
def test_newer_instructions_are_in_dispatched_kernels_alone(wheel, linked):
    arch, found = examined(wheel, linked)
    assert not instructions.unexpected(arch, found)


@needs_wheels
@pytest.mark.parametrize(("wheel", "linked"), built())
def test_dispatched_kernels_have_the_instructions_that_they_are_dispatched_for(wheel, linked):
    arch, found = examined(wheel, linked)
    counts = instructions.features(found)
    compiled = instructions.sources(linked.read_bytes())
    for (of, source), features in instructions.DISPATCHED.items():
        if of == arch and source in compiled:
            assert set(counts[source]) == features


@needs_wheels
@pytest.mark.parametrize(("wheel", "linked"), built())
def test_every_kernel_file_is_among_the_dispatched_or_for_every_cpu(wheel, linked):
    arch, _ = examined(wheel, linked)
    kernels = {
        name for name in instructions.sources(linked.read_bytes()) if name.startswith("kernels_")
    }
    dispatched = {source for of, source in instructions.DISPATCHED if of == arch}
    assert kernels - dispatched == {
        "x86_64": {"kernels_scalar.cpp"},
        "armv7l": {"kernels_scalar.cpp"},
    }.get(arch, {"kernels_scalar.cpp", "kernels_neon.cpp"})


@needs_wheels
@pytest.mark.parametrize(("wheel", "linked"), built()[:1])
def test_symbols_of_another_build_are_refused(wheel, linked):
    data = bytearray(linked.read_bytes())
    elf = instructions.ELFFile(open(linked, "rb"))  # noqa: SIM115, PTH123 - closed with it
    data[elf.get_section_by_name(".text")["sh_offset"]] ^= 1
    elf.close()
    with pytest.raises(ValueError, match=r"^\.text is not the unstripped copy's"):
        instructions.findings(instructions.extension(wheel), bytes(data))
