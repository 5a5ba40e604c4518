"""Every package of every image has a known licence that fits, or an exception that says why."""

from __future__ import annotations

import subprocess
import sys

import pytest

from supply_chain import licences
from supply_chain.licences import Licence, fits, image_licences, licence_of
from supply_chain.lock_file import CUDA_PREFIXES, LOCKS, ROOT, Pin, lock_path, read_lock

FOUND = sorted(set(image_licences()), key=lambda each: each.package)
ALLOWED = frozenset({"MIT", "Apache-2.0", "LLVM-exception"})
DRIVER = {"psycopg", "psycopg-binary"}
PUBLIC = {"docutils"}


def test_every_package_of_every_image_is_looked_at() -> None:
    assert {each.package for each in FOUND} == {pin.name for name in LOCKS for pin in read_lock(lock_path(name))}


@pytest.mark.parametrize("found", FOUND, ids=[each.package for each in FOUND])
def test_its_licence_fits(found: Licence) -> None:
    assert found.expression, "unknown: read its licence and declare it in supply_chain/licences.toml"
    assert found.fits, f"{found.expression} is not allowed: use another package, or justify it in licences.toml"


def test_exceptions_are_justified_and_concern_cuda_one_driver_and_the_public_domain_only() -> None:
    excepted = [each for each in FOUND if each.reason]
    assert excepted
    assert {each.package for each in excepted if not each.package.startswith(CUDA_PREFIXES)} == DRIVER | PUBLIC
    assert all(len(each.reason) > 60 for each in excepted)


@pytest.mark.parametrize(("image", "excepted"), [("service", set()), ("trainer-cpu", DRIVER), ("console", PUBLIC)])
def test_images_without_cuda_hold_nothing_else_that_needs_an_exception(image: str, excepted: set[str]) -> None:
    assert {pin.name for pin in read_lock(lock_path(image)) if licence_of(pin).reason} == excepted


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("MIT AND (Apache-2.0 OR MIT)", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("AGPL-3.0-or-later", False),
        ("Apache-2.0 WITH Other-exception", False),
        ("LicenseRef-Commercial", False),
        ("", False),
    ],
)
def test_an_expression_fits_if_all_that_it_names_is_allowed(expression: str, expected: bool) -> None:
    assert fits(expression, ALLOWED) is expected


def test_a_package_that_nobody_knows_does_not_fit() -> None:
    found = licence_of(Pin("no-such-package-here", "1.0"))
    assert (found.expression, found.fits) == ("", False)


def test_metadata_in_the_words_of_spdx_wins_over_what_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = {"allowed": ["MIT"], "declared": {"anyio": "GPL-3.0-only"}, "exceptions": {}}
    monkeypatch.setattr(licences, "_policy", lambda: policy)
    assert licence_of(Pin("anyio", "4")).expression == "MIT"


def test_the_command_lists_them() -> None:
    command = [sys.executable, "-m", "supply_chain.licences"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = {line.split()[0]: line.split()[1:3] for line in done.stdout.splitlines()}
    assert lines["fastapi"][1] == "MIT"
    assert len(lines) == len(FOUND)
