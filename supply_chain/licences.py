"""List the licences of all that the images install; exit code 1 if one does not fit.

``python -m supply_chain.licences``. A package's licence is what its metadata says in the words of SPDX, else what
``licences.toml`` declares, else what the older fields of its metadata say.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from supply_chain.lock_file import LOCKS, Pin, lock_path, read_lock

POLICY = Path(__file__).with_name("licences.toml")

OLDER_NAMES = {
    "Apache 2": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache-2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD-3-Clause": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT": "MIT",
    "MIT License": "MIT",
    "MPL-2.0": "MPL-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""SPDX names, by the names that older fields of metadata use. "BSD License" may be any of several, and is not here."""


@dataclass(frozen=True)
class Licence:
    """The licence of one package, and whether it fits."""

    package: str
    version: str
    expression: str
    """SPDX expression; empty: unknown."""
    fits: bool
    reason: str = ""
    """Why it may be there although its licence is not among those that are allowed."""


def main() -> int:
    """Print every package with its licence; return 1 if there is one that does not fit."""
    found = sorted(set(image_licences()), key=lambda each: each.package)
    for each in found:
        note = "" if each.fits and not each.reason else "  (exception)" if each.fits else "  DOES NOT FIT"
        sys.stdout.write(f"{each.package:28} {each.version:14} {each.expression or 'unknown'}{note}\n")
    return 0 if all(each.fits for each in found) else 1


def image_licences() -> Iterator[Licence]:
    """Yield the licence of each package of each lock file."""
    for name in LOCKS:
        yield from map(licence_of, read_lock(lock_path(name)))


def licence_of(pin: Pin) -> Licence:
    """Return the licence of a package; one whose licence is unknown does not fit."""
    policy = _policy()
    for pattern, exception in policy["exceptions"].items():
        if fnmatchcase(pin.name, pattern) and pin.name not in policy["declared"]:
            return Licence(pin.name, pin.version, exception["licence"], fits=True, reason=exception["reason"])

    expression = _from_metadata(pin.name) or policy["declared"].get(pin.name, "") or _from_older_fields(pin.name)
    return Licence(pin.name, pin.version, expression, fits=fits(expression, frozenset(policy["allowed"])))


def fits(expression: str, allowed: frozenset[str]) -> bool:
    """Return whether all licences of an SPDX expression are allowed, alternatives included.

    Of "A OR B" one that is allowed would be enough. To ask for both keeps this simple; an exception can say which is
    chosen.
    """
    names = set(re.findall(r"[A-Za-z0-9.+-]+", expression)) - {"AND", "OR", "WITH"}
    return bool(names) and names <= allowed


def _from_metadata(name: str) -> str:
    return next(iter(_fields(name, "License-Expression")), "")


def _from_older_fields(name: str) -> str:
    classifiers = [each for each in _fields(name, "Classifier") if each.startswith("License ::")]
    candidates = [*_fields(name, "License"), *(each.rpartition(" :: ")[2] for each in classifiers)]
    return next((OLDER_NAMES[each] for each in candidates if each in OLDER_NAMES), "")


def _fields(name: str, field: str) -> list[str]:
    """Return the values of a field of a package's metadata; none if it is not installed."""
    try:
        return [value.strip() for value in metadata(name).get_all(field) or []]
    except PackageNotFoundError:
        return []


@cache
def _policy() -> dict[str, Any]:
    return tomllib.loads(POLICY.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
