"""packaging/strip.py on this interpreter's own extensions."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import strip

elffile = pytest.importorskip(
    "elftools.elf.elffile", reason="pyelftools (of auditwheel) is not here"
)

OWN = sorted(Path(sysconfig.get_config_var("DESTSHARED")).glob("_struct.*.so"))
needs_extension = pytest.mark.skipif(
    not OWN, reason="this CPython has no extension in a file of its own"
)


def sections(data):
    return {s.name: s for s in elffile.ELFFile(io.BytesIO(data)).iter_sections()}


@needs_extension
def test_everything_loaded_keeps_its_bytes_and_its_place():
    data = OWN[0].read_bytes()
    before, after = sections(data), sections(strip.stripped(data))
    loaded = [name for name, section in before.items() if section["sh_flags"] & strip.SHF_ALLOC]
    assert ".text" in loaded
    for name in loaded:
        for field in ("sh_type", "sh_addr", "sh_offset", "sh_size", "sh_flags"):
            assert after[name][field] == before[name][field]
        assert after[name].data() == before[name].data()
    segments = elffile.ELFFile(io.BytesIO(strip.stripped(data))).iter_segments()
    assert [s.header for s in segments] == [
        s.header for s in elffile.ELFFile(io.BytesIO(data)).iter_segments()
    ]


@needs_extension
def test_links_between_sections_follow_them():
    data = OWN[0].read_bytes()
    before, after = (elffile.ELFFile(io.BytesIO(d)) for d in (data, strip.stripped(data)))
    for name in (".dynsym", ".dynamic", ".rela.dyn", ".gnu.version"):
        old, new = before.get_section_by_name(name), after.get_section_by_name(name)
        assert after.get_section(new["sh_link"]).name == before.get_section(old["sh_link"]).name


@needs_extension
def test_symbols_and_debugging_sections_go():
    data = OWN[0].read_bytes()
    names = set(sections(strip.stripped(data)))
    assert not [name for name in names if name.startswith((".symtab", ".strtab", ".debug"))]
    assert len(strip.stripped(data)) <= len(data)


@needs_extension
def test_stripping_again_changes_nothing():
    once = strip.stripped(OWN[0].read_bytes())
    assert strip.stripped(once) == once


@needs_extension
def test_the_command_strips_in_place_and_the_extension_still_works(tmp_path):
    copy = shutil.copy(OWN[0], tmp_path)
    subprocess.run([sys.executable, strip.__file__, "--strip-all", copy], check=True)
    assert Path(copy).read_bytes() == strip.stripped(OWN[0].read_bytes())
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import _struct; print(_struct.__file__, _struct.pack('<i', 7))"
    told = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert told.stdout.split() == [str(copy), r"b'\x07\x00\x00\x00'"]


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x02\x02" + bytes(58)])
def test_what_is_no_little_endian_elf_file_is_refused(data):
    with pytest.raises(ValueError, match="not a little-endian ELF file"):
        strip.stripped(data)
