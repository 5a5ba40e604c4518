"""Write the lock files of the images: ``python -m supply_chain.lock``.

uv resolves pyproject.toml under constraints.txt for every platform at once. What it resolved newly is pinned in
constraints.txt as well, so that a lock file never knows a version that people do not see. Of all wheels, a lock file
keeps the hashes of those that the images can install; no addresses of a package index are kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from supply_chain.lock_file import (
    ALONE,
    LOCKS,
    PROJECT,
    ROOT,
    Pin,
    add_constraints,
    lock_path,
    without_cuda,
    write_lock,
)

PYTHON = (3, 11)
"""Python of the images."""

PATCHES = ("3.11.0", "3.11.99")
"""Ends of the range of Python versions that a base image may have: a marker may ask for a patch level."""

MACHINES = ("x86_64", "aarch64")
"""Machines that images are built for, as ``platform_machine`` names them."""

GLIBC = 36
"""Minor version of the base image's glibc, 2.36: wheels may be built for this one or an older one."""

OLDEST_GLIBC = 5
"""Minor version of the oldest glibc that wheels are built for."""


class LockError(Exception):
    """A package cannot be installed in the images."""


def main() -> int:
    """Write every lock file, and say which packages were pinned newly."""
    try:
        for name, extras in LOCKS.items():
            pins = resolve_extras(extras) if name in ALONE else resolve_project(extras)
            for line in add_constraints(pins):
                sys.stdout.write(f"new in constraints.txt: {line}\n")
            write_lock(lock_path(name), f"Everything that the image `{name}` installs.", pins)

        write_lock(
            lock_path("trainer-cpu"),
            "What the trainer installs beside a CPU build of torch: all but torch and its CUDA libraries.",
            without_cuda(pins),
        )
        write_lock(lock_path("build"), "What builds the wheel of this project.", resolve_build_tools())
    except LockError as broken:
        sys.stderr.write(f"error: {broken}\n")
        return 1
    return 0


def resolve_project(extras: Sequence[str]) -> list[Pin]:
    """Return the pins of what the project depends on, and of extras."""
    return resolve(["pyproject.toml", *(f"--extra={extra}" for extra in extras)])


def resolve_extras(extras: Sequence[str]) -> list[Pin]:
    """Return the pins of extras alone."""
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    required = [requirement for extra in extras for requirement in optional[extra]]
    project = f"[project]\nname = {json.dumps(PROJECT)}\nversion = '0'\ndependencies = {json.dumps(required)}\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pyproject.toml")
        path.write_text(project, encoding="utf-8")
        return resolve([str(path)])


def resolve_build_tools() -> list[Pin]:
    """Return the pins of pyproject.toml's ``[build-system]``."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    with tempfile.NamedTemporaryFile("w", suffix=".in", encoding="utf-8") as requirements:
        requirements.write("\n".join(pyproject["build-system"]["requires"]) + "\n")
        requirements.flush()
        return resolve([requirements.name])


def resolve(sources: list[str]) -> list[Pin]:
    """Resolve requirements for all platforms; return what the images need of it.

    Args:
        sources: Files of requirements, and options that choose among their extras.

    Raises:
        LockError: uv finds no solution, or a package has no wheel for one of the machines.
    """
    packages = tomllib.loads(_run_uv(sources, "--format=pylock.toml"))["packages"]
    needed_by = dict(_dependents(_run_uv(sources, "--format=requirements.txt", "--annotation-style=line")))
    pins = [pin for package in packages if (pin := _pin(package)) is not None]
    return [replace(pin, needed_by=needed_by.get(pin.name, ())) for pin in pins]


def _run_uv(sources: list[str], *output: str) -> str:
    """Resolve without building anything, and return what uv prints."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", *sources, *output]
    options = ["--universal", f"--python-version={PYTHON[0]}.{PYTHON[1]}", "--constraints=constraints.txt"]
    done = subprocess.run(
        [*command, *options, "--only-binary=:all:"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LockError(done.stderr.strip())
    return done.stdout


def _dependents(annotated: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each package with those that depend on it, from lines such as ``anyio==4.16.0  # via httpx, starlette``."""
    for line in annotated.splitlines():
        requirement, found, dependents = line.partition("# via ")
        if found:
            names = {each.strip().split()[0] for each in dependents.split(",") if not each.strip().startswith("-")}
            yield canonicalize_name(requirement.partition("==")[0]), tuple(sorted(names))


def supported_tags(machine: str) -> frozenset[Tag]:
    """Return the wheel tags that an image for this machine can install."""
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, OLDEST_GLIBC - 1, -1)]
    platforms += [f"{legacy}_{machine}" for legacy in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
    abi = f"cp{PYTHON[0]}{PYTHON[1]}"
    return frozenset(
        [*cpython_tags(PYTHON, [abi], platforms), *compatible_tags(PYTHON, abi, platforms)]  # abi3 and none included
    )


def _pin(package: dict[str, Any]) -> Pin | None:
    """Return the pin of one package of a ``pylock.toml``; ``None`` where no image needs it."""
    marker = package.get("marker", "")
    needed = {(patch, machine): _is_needed(marker, patch, machine) for patch, machine in product(PATCHES, MACHINES)}
    if not any(needed.values()):
        return None

    name = canonicalize_name(package["name"])
    hashes: set[str] = set()
    for machine in MACHINES:
        if not any(needed[patch, machine] for patch in PATCHES):
            continue
        found = set(_hashes(package, supported_tags(machine)))
        if not found:
            raise LockError(f"{name} {package['version']} has no wheel for CPython 3.11 on Linux {machine}")
        hashes |= found
    return Pin(name, package["version"], "" if all(needed.values()) else marker, tuple(sorted(hashes)))


def _is_needed(marker: str, patch: str, machine: str) -> bool:
    if not marker:
        return True
    environment = {
        "implementation_name": "cpython",
        "implementation_version": patch,
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": patch,
        "python_version": f"{PYTHON[0]}.{PYTHON[1]}",
        "sys_platform": "linux",
    }
    return Marker(marker).evaluate(environment)


def _hashes(package: dict[str, Any], tags: frozenset[Tag]) -> Iterator[str]:
    for wheel in package.get("wheels", []):
        name = wheel.get("name") or Path(wheel["url"]).name
        if parse_wheel_filename(name)[3] & tags:
            yield wheel["hashes"]["sha256"]


if __name__ == "__main__":
    sys.exit(main())
