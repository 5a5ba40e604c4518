"""Lock files: requirements with one exact version and the hashes of its wheels, as ``pip --require-hashes`` reads them.

``constraints.txt`` is the list that people edit; the lock files in ``docker/`` follow from it and pyproject.toml
(``make lock``), and the images install from them alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
DOCKER = ROOT / "docker"

LOCKS: dict[str, tuple[str, ...]] = {
    "service": ("tracing", "ingest"),
    "console": ("console",),
    "service-gpu": ("gpu", "tracing", "ingest"),
    "trainer": ("train", "sql", "tracing"),
}
"""Extras of pyproject.toml that each image installs, by the name of its lock file."""

ALONE = frozenset({"console"})
"""Images that install their extras alone, without what the rest of the project depends on."""

CUDA_PREFIXES = ("cuda-", "nvidia-", "triton")
"""Beginnings of the names of packages that only torch's CUDA build needs."""

PROJECT = "etegrec"

_PIN = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[^\s;]+)(?:\s*;\s*(?P<marker>.+))?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_VIA = "# via "


@dataclass(frozen=True)
class Pin:
    """One package of a lock file: the version, where it is needed, and the wheels that may be installed."""

    name: str
    """Normalised name."""
    version: str
    marker: str = ""
    """Environment marker; empty: needed everywhere."""
    hashes: tuple[str, ...] = ()
    """SHA-256 of each wheel that fits the images, in hexadecimal digits, sorted."""
    needed_by: tuple[str, ...] = ()
    """Packages that depend on it, sorted; this project among them where it does so itself."""

    def lines(self) -> str:
        """Return the requirement as a lock file holds it."""
        requirement = f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")
        locked = " \\\n    ".join([requirement, *(f"--hash=sha256:{digest}" for digest in self.hashes)])
        return f"{locked}\n    {_VIA}{', '.join(self.needed_by)}" if self.needed_by else locked


def lock_path(name: str) -> Path:
    """Return the path of a lock file: ``requirements-<name>.txt`` in ``docker/``."""
    return DOCKER / f"requirements-{name}.txt"


def write_lock(path: Path, title: str, pins: list[Pin]) -> None:
    """Write a lock file, sorted by name."""
    head = f"# {title}\n# Written by `make lock`, for CPython 3.11 on Linux, x86_64 and aarch64; do not edit.\n"
    body = "\n".join(pin.lines() for pin in sorted(pins, key=lambda pin: pin.name))
    path.write_text(f"{head}{body}\n", encoding="utf-8")


def read_lock(path: Path) -> list[Pin]:
    """Return the pins of a lock file.

    Raises:
        ValueError: A line is no exact pin.
    """
    pins: list[Pin] = []
    for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        entry = line.strip()
        if entry.startswith(_VIA):
            pins[-1] = replace(pins[-1], needed_by=tuple(entry.removeprefix(_VIA).split(", ")))
        elif entry and not entry.startswith("#"):
            pins.append(_pin(entry))
    return pins


def read_constraints(path: Path = CONSTRAINTS) -> dict[str, str]:
    """Return the version of each pinned package, by its normalised name.

    Raises:
        ValueError: A line is no exact pin.
    """
    pins = [_pin(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {pin.name: pin.version for pin in pins}


def add_constraints(pins: list[Pin], path: Path = CONSTRAINTS) -> list[str]:
    """Add packages that are not pinned yet; return the lines that were added."""
    known = read_constraints(path)
    added = [f"{pin.name}=={pin.version}" for pin in pins if pin.name not in known]
    lines = [*path.read_text(encoding="utf-8").splitlines(), *added]
    path.write_text("\n".join(sorted(lines, key=str.lower)) + "\n", encoding="utf-8")
    return added


def without_cuda(pins: list[Pin]) -> list[Pin]:
    """Return the pins without torch, and without what only its CUDA build needs."""
    return [pin for pin in pins if pin.name != "torch" and not pin.name.startswith(CUDA_PREFIXES)]


def _pin(entry: str) -> Pin:
    requirement, _, _ = entry.partition("--hash=")
    found = _PIN.fullmatch(requirement.strip())
    if found is None:
        raise ValueError(f"not an exact pin: {entry.strip()[:100]}")
    return Pin(
        canonicalize_name(found["name"]),
        found["version"],
        (found["marker"] or "").strip(),
        tuple(sorted(_HASH.findall(entry))),
    )
