"""packaging/headers.py: CPython's headers for an architecture that is not this machine's."""

from __future__ import annotations

import platform
import re
import sys

import debian
import headers
import pytest

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
HOST = headers.host_headers(HERE)
needs_headers = pytest.mark.skipif(
    HOST is None or platform.machine() not in ("x86_64", "aarch64"),
    reason=f"no CPython {HERE} of a 64-bit machine has headers here",
)


def value(config, name):
    found = re.search(rf"^#define {name} (\d+)$", config, re.MULTILINE)
    return found and int(found[1])


@needs_headers
@pytest.mark.parametrize(("arch", "pointer"), [("x86_64", 8), ("aarch64", 8), ("armv7l", 4)])
def test_copied_headers_are_the_architectures(tmp_path, arch, pointer):
    source = headers.copy_headers(HERE, arch, tmp_path / "include")
    config = (tmp_path / "include" / "pyconfig.h").read_text()
    assert value(config, "SIZEOF_VOID_P") == value(config, "SIZEOF_LONG") == pointer
    assert value(config, "SIZEOF_INT") == 4
    assert value(config, "HAVE_CRYPT_H") is None
    assert (tmp_path / "include" / "Python.h").is_file()
    assert (tmp_path / "include" / "cpython").is_dir()
    assert source.startswith("host CPython")


@needs_headers
def test_a_later_copy_replaces_the_earlier(tmp_path):
    headers.copy_headers(HERE, "armv7l", tmp_path / "include")
    (tmp_path / "include" / "stale.h").touch()
    headers.copy_headers(HERE, "aarch64", tmp_path / "include")
    assert not (tmp_path / "include" / "stale.h").exists()
    config = (tmp_path / "include" / "pyconfig.h").read_text()
    assert value(config, "SIZEOF_VOID_P") == 8


def test_only_what_differs_is_changed_for_32_bit_arm():
    config = "#define HAVE_GCC_UINT128_T 1\n#define SIZEOF_LONG 8\n#define SIZEOF_LONG_LONG 8\n#define HAVE_FORK 1\n"
    assert headers.for_architecture(config, "armv7l") == (
        "/* #undef HAVE_GCC_UINT128_T */\n#define SIZEOF_LONG 4\n#define SIZEOF_LONG_LONG 8\n#define HAVE_FORK 1\n"
    )
    assert headers.for_architecture(config, "aarch64") == config
    assert headers.for_architecture(config, "x86_64") == config


def test_a_version_that_nobody_has_is_named(tmp_path):
    with pytest.raises(headers.MissingHeadersError, match=r"no CPython 3\.99 .* no Debian release"):
        headers.copy_headers("3.99", "aarch64", tmp_path / "include")


def test_a_debian_version_says_what_is_missing_to_unpack_it(tmp_path, monkeypatch):
    monkeypatch.setattr(headers, "SUITES", {"3.99": "nosuch"})
    monkeypatch.setattr(debian, "missing", lambda: "apt-get is not installed")
    with pytest.raises(
        headers.MissingHeadersError, match=r"no CPython 3\.99 .* and apt-get is not installed"
    ):
        headers.copy_headers("3.99", "aarch64", tmp_path / "include")


def test_missing_names_the_first_tool_that_is_not_there(monkeypatch):
    monkeypatch.setattr(debian.shutil, "which", lambda _: None)
    assert debian.missing() == "apt-get is not installed"
