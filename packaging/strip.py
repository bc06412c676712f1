#!/usr/bin/env python3
"""Takes symbols and debugging sections out of ELF files of any machine, which the host's own strip cannot.

CMake calls it as CMAKE_STRIP. What is loaded at run time keeps its bytes and their places; zig's own -s would
have it compile libc++ once more, without them.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

SHF_ALLOC = 0x2
SHF_INFO_LINK = 0x40
SHT_REL, SHT_RELA, SHT_NOBITS = 9, 4, 8
# Loaded by nobody, but readers tell compilers and float ABIs by them.
KEPT = (b".comment", b".ARM.attributes", b".shstrtab")
# name, type, flags, addr, offset, size, link, info, addralign, entsize
_SECTION = {1: "<10I", 2: "<IIQQQQIIQQ"}
# shoff; then shentsize, shnum, shstrndx
_HEADER = {1: ((0x20, "<I"), (0x2E, "<3H")), 2: ((0x28, "<Q"), (0x3A, "<3H"))}
_NAME, _TYPE, _FLAGS, _ADDR, _OFFSET, _SIZE, _LINK, _INFO, _ALIGN, _ENTRY = range(10)


def stripped(elf: bytes) -> bytes:
    """The same file with the sections that are loaded and KEPT."""
    if elf[:4] != b"\x7fELF" or elf[4] not in _SECTION or elf[5] != 1:
        raise ValueError("not a little-endian ELF file")
    layout, ((start_at, start_format), (counts_at, counts_format)) = (
        _SECTION[elf[4]],
        _HEADER[elf[4]],
    )
    (start,) = struct.unpack_from(start_format, elf, start_at)
    entry, count, names = struct.unpack_from(counts_format, elf, counts_at)
    table = [list(struct.unpack_from(layout, elf, start + i * entry)) for i in range(count)]
    kept = [
        i
        for i in range(count)
        if i == 0 or table[i][_FLAGS] & SHF_ALLOC or _name(elf, table, names, i) in KEPT
    ]
    place = {old: new for new, old in enumerate(kept)}

    loaded = [s for s in table if s[_FLAGS] & SHF_ALLOC and s[_TYPE] != SHT_NOBITS]
    out = bytearray(elf[: max(s[_OFFSET] + s[_SIZE] for s in loaded)])
    for i in kept:
        section = table[i]
        section[_LINK] = place.get(section[_LINK], 0)
        if section[_TYPE] in (SHT_REL, SHT_RELA) or section[_FLAGS] & SHF_INFO_LINK:
            section[_INFO] = place.get(section[_INFO], 0)
        if i and not section[_FLAGS] & SHF_ALLOC:
            content = elf[section[_OFFSET] : section[_OFFSET] + section[_SIZE]]
            section[_OFFSET] = _align(out, section[_ALIGN])
            out += content
    struct.pack_into(start_format, out, start_at, _align(out, 8))
    struct.pack_into(counts_format, out, counts_at, entry, len(kept), place[names])
    for i in kept:
        out += struct.pack(layout, *table[i])
    return bytes(out)


def _name(elf: bytes, table: list[list[int]], names: int, index: int) -> bytes:
    start = table[names][_OFFSET] + table[index][_NAME]
    return elf[start : elf.index(b"\0", start)]


def _align(out: bytearray, to: int) -> int:
    out += bytes(-len(out) % max(to, 1))
    return len(out)


if __name__ == "__main__":
    # Options are for another strip: this one takes everything that is not needed.
    for path in (Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")):
        path.write_bytes(stripped(path.read_bytes()))
