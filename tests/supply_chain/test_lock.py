"""The lock files say what pyproject.toml and constraints.txt say, completely, and name wheels by their hashes."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.tags import Tag
from packaging.utils import canonicalize_name

from supply_chain import lock, lock_file
from supply_chain.lock_file import (
    ALONE,
    LOCKS,
    PROJECT,
    ROOT,
    Pin,
    lock_path,
    read_constraints,
    read_lock,
    without_cuda,
)

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NAMES = (*LOCKS, "trainer-cpu", "build")
FIX = "run `make lock`"
IMAGE = {"platform_machine": "x86_64", "sys_platform": "linux", "platform_system": "Linux", "extra": ""}


def direct_requirements(image: str) -> set[str]:
    project = PYPROJECT["project"]
    groups = [
        [] if image in ALONE else project["dependencies"],
        *(project["optional-dependencies"][extra] for extra in LOCKS[image]),
    ]
    parsed = [Requirement(each) for group in groups for each in group]
    return {canonicalize_name(each.name) for each in parsed if each.marker is None or each.marker.evaluate(IMAGE)}


@pytest.mark.parametrize("name", NAMES)
def test_every_version_is_the_one_in_the_constraints(name: str) -> None:
    constraints = read_constraints()
    pins = read_lock(lock_path(name))
    assert pins
    assert not [pin.name for pin in pins if constraints.get(pin.name) != pin.version], FIX


@pytest.mark.parametrize("name", NAMES)
def test_every_package_is_fixed_by_hashes(name: str) -> None:
    text = lock_path(name).read_text(encoding="utf-8")
    assert all(pin.hashes for pin in read_lock(lock_path(name)))
    assert "://" not in text  # no address of an index, or of a file
    assert not re.search(r"^-", text, re.MULTILINE)  # and no option that names one


@pytest.mark.parametrize("image", LOCKS)
def test_what_the_project_requires_is_locked(image: str) -> None:
    pins = read_lock(lock_path(image))
    assert direct_requirements(image) == {pin.name for pin in pins if PROJECT in pin.needed_by}, FIX


@pytest.mark.parametrize("image", LOCKS)
def test_what_locked_packages_require_is_locked(image: str) -> None:
    names = {pin.name for pin in read_lock(lock_path(image))}
    missing = set()
    for name in names:
        try:
            required = [Requirement(each) for each in requires(name) or []]
        except PackageNotFoundError:  # CUDA's packages are not installed for development
            continue
        needed = [each for each in required if each.marker is None or each.marker.evaluate(IMAGE)]
        missing |= {f"{name} needs {each.name}" for each in needed if canonicalize_name(each.name) not in names}
    assert not missing, FIX


def test_the_trainer_beside_a_cpu_build_of_torch_is_the_trainer_without_cuda() -> None:
    trainer = read_lock(lock_path("trainer"))
    small = read_lock(lock_path("trainer-cpu"))
    assert small == without_cuda(trainer)
    dropped = {pin.name for pin in trainer} - {pin.name for pin in small}
    assert "torch" in dropped
    assert "triton" in dropped
    assert {"numpy", "sympy", "filelock"} <= {pin.name for pin in small}  # torch needs these on a CPU as well


def test_the_build_tools_are_those_that_the_lock_file_holds() -> None:
    required = PYPROJECT["build-system"]["requires"]
    assert required == [f"{pin.name}=={pin.version}" for pin in read_lock(lock_path("build"))], FIX


def test_a_lock_file_survives_being_written_and_read(tmp_path: Path) -> None:
    pins = [
        Pin("a-b", "1.0", "python_full_version < '3.11.3'", ("0" * 64, "1" * 64), ("etegrec", "zlib-py")),
        Pin("c", "2!1.0+cpu", "", ("f" * 64,)),
    ]
    lock_file.write_lock(tmp_path / "lock.txt", "Title.", pins[::-1])
    assert read_lock(tmp_path / "lock.txt") == pins


@pytest.mark.parametrize("line", ["a>=1", "a", "a==1 --no-hash", "-r other.txt", "a @ file:///a.whl"])
def test_a_line_that_is_no_exact_pin_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "lock.txt").write_text(f"{line}\n")
    with pytest.raises(ValueError, match="not an exact pin"):
        read_lock(tmp_path / "lock.txt")


def test_new_packages_are_pinned_for_people_to_see_and_known_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "constraints.txt"
    path.write_text("APScheduler==3.11.3\nnumpy==2.4.6\n")
    pins = [Pin("apscheduler", "9.9"), Pin("markdown", "3.11.3")]
    assert lock_file.add_constraints(pins, path) == ["markdown==3.11.3"]
    assert path.read_text() == "APScheduler==3.11.3\nmarkdown==3.11.3\nnumpy==2.4.6\n"


def test_constraints_are_sorted() -> None:
    lines = lock_file.CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    assert lines == sorted(lines, key=str.lower)


# What is kept of a resolution


def package(*files: str, marker: str = "") -> dict[str, Any]:
    wheels = [{"url": f"https://host/{file}", "hashes": {"sha256": f"{at:064x}"}} for at, file in enumerate(files)]
    return {"name": "Some_Name", "version": "1.0", "wheels": wheels} | ({"marker": marker} if marker else {})


def test_only_wheels_that_the_images_can_install_are_kept() -> None:
    pin = lock._pin(
        package(
            "some_name-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",  # 0
            "some_name-1.0-cp311-cp311-manylinux_2_28_aarch64.whl",  # 1
            "some_name-1.0-cp39-abi3-manylinux_2_28_x86_64.whl",  # 2
            "some_name-1.0-py3-none-any.whl",  # 3
            "some_name-1.0-cp311-cp311-musllinux_1_2_x86_64.whl",
            "some_name-1.0-cp311-cp311-manylinux_2_39_x86_64.whl",  # a newer glibc than Debian's
            "some_name-1.0-cp312-cp312-manylinux_2_28_x86_64.whl",
            "some_name-1.0-cp312-abi3-manylinux_2_28_x86_64.whl",
            "some_name-1.0-cp311-cp311-macosx_11_0_arm64.whl",
            "some_name-1.0-cp311-cp311-win_amd64.whl",
        )
    )
    assert pin == Pin("some-name", "1.0", "", tuple(f"{at:064x}" for at in range(4)))


def test_a_package_without_a_wheel_for_a_machine_is_refused() -> None:
    with pytest.raises(lock.LockError, match=r"some-name 1\.0 has no wheel for CPython 3.11 on Linux aarch64"):
        lock._pin(package("some_name-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"))


def test_markers_decide_who_needs_a_package() -> None:
    wheel = "some_name-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"
    assert lock._pin(package(wheel, marker="sys_platform == 'win32'")) is None

    one_machine = lock._pin(package(wheel, marker="platform_machine == 'x86_64'"))
    assert one_machine is not None
    assert one_machine.marker == "platform_machine == 'x86_64'"

    early = lock._pin(package("some_name-1.0-py3-none-any.whl", marker="python_full_version < '3.11.3'"))
    assert early is not None
    assert early.marker == "python_full_version < '3.11.3'"  # a base image may still have such a Python

    always = lock._pin(package("some_name-1.0-py3-none-any.whl", marker="sys_platform == 'linux'"))
    assert always is not None
    assert always.marker == ""


def test_annotations_name_who_needs_a_package() -> None:
    annotated = (
        "anyio==4.16.0            # via httpx, starlette, -c constraints.txt\n"
        "fastapi==0.165.0         # via -c constraints.txt, etegrec (pyproject.toml)\n"
        "orphan==1.0\n"
    )
    assert dict(lock._dependents(annotated)) == {"anyio": ("httpx", "starlette"), "fastapi": ("etegrec",)}


@pytest.mark.parametrize("machine", lock.MACHINES)
def test_supported_tags_are_those_of_the_base_image(machine: str) -> None:
    tags = lock.supported_tags(machine)
    assert Tag("cp311", "cp311", f"manylinux_2_36_{machine}") in tags
    assert Tag("py3", "none", "any") in tags
    assert Tag("cp311", "cp311", f"manylinux_2_37_{machine}") not in tags
    assert all(tag.platform == "any" or tag.platform.endswith(machine) for tag in tags)
