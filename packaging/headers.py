"""CPython's headers for another architecture, in one flat folder.

They are the host CPython's of the same minor version, whose pyconfig.h says alike for every 64-bit Linux and is
changed for 32-bit ARM, or Debian's for that architecture. Extensions built with either are the same bytes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import debian

# Which Debian release has which CPython.
SUITES = {"3.9": "bullseye", "3.11": "bookworm", "3.13": "trixie", "3.14": "testing"}

# What Debian's pyconfig.h of armhf says otherwise than amd64's, as far as an extension can see it.
_ARM_SIZES = {
    "ALIGNOF_LONG": 4,
    "ALIGNOF_MAX_ALIGN_T": 8,
    "ALIGNOF_SIZE_T": 4,
    "SIZEOF_LONG": 4,
    "SIZEOF_LONG_DOUBLE": 8,
    "SIZEOF_PTHREAD_T": 4,
    "SIZEOF_SIZE_T": 4,
    "SIZEOF_TIME_T": 4,
    "SIZEOF_UINTPTR_T": 4,
    "SIZEOF_VOID_P": 4,
}
_ONLY_X86 = ("HAVE_GCC_ASM_FOR_X64", "HAVE_GCC_ASM_FOR_X87")
_ONLY_64_BIT = ("HAVE_GCC_UINT128_T", "HAVE___UINT128_T")
# CPython 3.9's Python.h includes <crypt.h>, which is not among zig's headers.
_NOWHERE = ("HAVE_CRYPT_H",)

_ASK = """\
import json, sysconfig as s
print(json.dumps([s.get_python_version(), s.get_path("include"), s.get_config_h_filename(),
                  bool(s.get_config_var("Py_GIL_DISABLED") or s.get_config_var("Py_DEBUG"))]))
"""


class MissingHeadersError(Exception):
    """Where headers of this version were looked for."""


def copy_headers(python: str, arch: str, into: Path) -> str:
    """Makes the folder `into` and says where its content is from; MissingHeadersError where there is none."""
    shutil.rmtree(into, ignore_errors=True)
    host = host_headers(python)
    if host is not None:
        include, config = host
        shutil.copytree(include, into)
        text, source = for_architecture(config.read_text(), arch), f"host CPython, {include}"
    else:
        text, source = _from_debian(python, arch, into)
    (into / "pyconfig.h").write_text(undefined(text, _NOWHERE))
    return source


def host_headers(python: str) -> tuple[Path, Path] | None:
    """The include folder and the pyconfig.h of a CPython of this version on the PATH or in pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    on_path = shutil.which(f"python{python}")
    of_pyenv = sorted(pyenv.glob(f"{python}.*/bin/python{python}"))
    for interpreter in filter(None, (on_path, *map(str, of_pyenv))):
        asked = subprocess.run([interpreter, "-c", _ASK], check=False, capture_output=True)
        if asked.returncode != 0:  # a shim of a version that is not chosen
            continue
        version, include, config, other_abi = json.loads(asked.stdout)
        # Debian's own is a list of #includes, one for each architecture.
        whole = Path(config).is_file() and "define SIZEOF_VOID_P" in Path(config).read_text()
        if version == python and whole and Path(include, "Python.h").is_file() and not other_abi:
            return Path(include), Path(config)
    return None


def for_architecture(config: str, arch: str) -> str:
    """An x86-64 pyconfig.h as the same CPython's is for `arch`."""
    if arch == "x86_64":
        return config
    config = undefined(config, _ONLY_X86)
    if arch == "armv7l":
        config = undefined(config, _ONLY_64_BIT)
        for name, value in _ARM_SIZES.items():
            config = re.sub(
                rf"^#define {name} \d+$", f"#define {name} {value}", config, flags=re.MULTILINE
            )
    return config


def undefined(config: str, names: tuple[str, ...]) -> str:
    for name in names:
        config = re.sub(rf"^#define {name} 1$", f"/* #undef {name} */", config, flags=re.MULTILINE)
    return config


def _from_debian(python: str, arch: str, into: Path) -> tuple[str, str]:
    if python not in SUITES:
        raise MissingHeadersError(
            f"no CPython {python} with headers on this machine, and no Debian release has it"
        )
    with tempfile.TemporaryDirectory() as folder:
        package = f"libpython{python}-dev"
        try:
            debian.unpack(SUITES[python], arch, (package,), Path(folder), dependencies=False)
        except debian.UnavailableError as error:
            raise MissingHeadersError(
                f"no CPython {python} with headers on this machine, and {error}"
            ) from error
        include = Path(folder, "usr", "include")
        shutil.copytree(include / f"python{python}", into)
        config = include / debian.TRIPLETS[arch] / f"python{python}" / "pyconfig.h"
        return config.read_text(), f"Debian {SUITES[python]}, {package}"
