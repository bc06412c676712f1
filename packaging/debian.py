"""Debian packages of any architecture in a folder: apt's own resolver and dpkg-deb, without root and without a chroot."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armhf"}
# Debian's name for where an architecture's files are; CPython has it in the suffix of its modules, too.
TRIPLETS = {
    "x86_64": "x86_64-linux-gnu",
    "aarch64": "aarch64-linux-gnu",
    "armv7l": "arm-linux-gnueabihf",
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgeface-packaging"

_CONFIGURATION = """\
APT::Architecture "{debian}";
APT::Architectures {{ "{debian}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
Acquire::Retries "3";
Debug::NoLocking "true";
Dir::Cache "{folder}/cache";
Dir::Etc::preferencesparts "{folder}/preferences.d";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "-";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
pkgCacheGen::ForceEssential "none";
"""


class UnavailableError(Exception):
    """What this machine lacks, or why apt refused."""


def missing() -> str | None:
    """Why packages cannot be had here; None when they can."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return None if KEYRING.is_file() else f"{KEYRING} is missing (package debian-archive-keyring)"


def unpack(
    suite: str, arch: str, packages: tuple[str, ...], into: Path, *, dependencies: bool = True
) -> None:
    """The packages, with everything they depend on or alone, unpacked over the folder `into`."""
    folder = _configured(suite, arch)
    archives = folder / "cache" / "archives"
    debs = _resolved(folder, packages)
    if dependencies:
        _apt(folder, "install", "--yes", "--download-only", *packages)
    else:
        debs = [deb for deb in debs if deb.split("_")[0] in packages]
        _apt(folder, "download", *packages, cwd=archives)
    # Unpacked files go through these links, which the base-files package would bring.
    (into / "usr").mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib"):
        (into / "usr" / name).mkdir(exist_ok=True)
        if not (into / name).is_symlink():
            (into / name).symlink_to(f"usr/{name}")
    for deb in debs:
        _run("dpkg-deb", "-x", str(archives / deb), str(into))


@functools.cache
def _configured(suite: str, arch: str) -> Path:
    """The folder of a private apt that knows this suite and architecture and nothing installed."""
    reason = missing()
    if reason is not None:
        raise UnavailableError(reason)
    folder = CACHE / "debian" / f"{suite}-{arch}"
    for part in ("state/lists/partial", "cache/archives/partial", "preferences.d"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {suite} main\n")
    configuration = _CONFIGURATION.format(debian=ARCHITECTURES[arch], folder=folder)
    (folder / "apt.conf").write_text(configuration)
    _apt(folder, "update")
    return folder


def _resolved(folder: Path, packages: tuple[str, ...]) -> list[str]:
    """The file name of every package that installing these would take."""
    plan = _apt(folder, "install", "--simulate", *packages)
    found = re.findall(r"^Inst (\S+) \((\S+) .*\[(\w+)\]\)", plan, re.MULTILINE)
    return [f"{name}_{version.replace(':', '%3a')}_{arch}.deb" for name, version, arch in found]


def _apt(folder: Path, *arguments: str, cwd: Path | None = None) -> str:
    environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf"), "LC_ALL": "C"}
    return _run("apt-get", "-qq", *arguments, cwd=cwd, env=environment)


def _run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        last = " ".join(done.stderr.split("\n")[-3:]).strip() or f"status {done.returncode}"
        raise UnavailableError(f"{' '.join(command[:3])} ...: {last}")
    return done.stdout


if __name__ == "__main__":
    print(missing() or "")
