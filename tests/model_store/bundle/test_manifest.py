from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from model_store.bundle.manifest import MANIFEST_LIMIT, REQUIRED_FILES, VERSION, FileSeal, Manifest, Origin, new_version
from model_store.bundle.manifest import _canonical as canonical
from model_store.bundle.manifest import _seal as seal_of
from model_store.errors import BundleRefused
from model_store.search.fusion import GENERATIVE_ALONE
from tests.support.bundles import NOON, description

SEALS = {name: FileSeal.of(name.encode()) for name in REQUIRED_FILES}


def manifest(**changes: Any) -> Manifest:
    about = description()
    fields = {name: getattr(about, name) for name in type(about).model_fields}
    return Manifest(**(fields | {"version": "v1", "created_at": NOON, "files": SEALS} | changes))


def resealed(change: dict[str, Any]) -> bytes:
    """A manifest edited by somebody who also recomputed its seal."""
    content = json.loads(manifest().to_bytes()) | change
    del content["seal"]
    return canonical(content | {"seal": seal_of(content)})


def test_what_is_written_is_read() -> None:
    assert Manifest.from_bytes(manifest().to_bytes()) == manifest()


def test_a_manifest_without_fusion_is_that_of_generative_answers() -> None:
    content = json.loads(manifest().to_bytes())
    del content["seal"], content["fusion"]
    assert Manifest.from_bytes(canonical(content | {"seal": seal_of(content)})).fusion == GENERATIVE_ALONE


def test_a_manifest_of_an_older_release_keeps_its_bytes() -> None:
    """Signatures and digests are of the bytes: fields that came later must not show in it."""
    content = json.loads(manifest().to_bytes())
    assert not {"training", "coverage"} & content.keys()
    newer = manifest(training="a" * 64, coverage={"recommended_items": 51.0})
    assert Manifest.from_bytes(newer.to_bytes()) == newer
    assert newer.digest != manifest().digest


def test_the_origin_is_data_and_settings() -> None:
    assert manifest(training="a" * 64).origin == Origin("f" * 64, "a" * 64)
    assert manifest().origin == Origin("f" * 64, None)


@settings(deadline=None)
@given(
    metrics=st.dictionaries(
        st.text(), st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False))
    )
)
def test_any_metrics_survive(metrics: dict[str, dict[str, float]]) -> None:
    assert Manifest.from_bytes(manifest(metrics=metrics).to_bytes()).metrics == metrics


@settings(deadline=None)
@given(st.data())
def test_no_byte_can_change(data: st.DataObject) -> None:
    original = manifest().to_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != original[at]))
    with pytest.raises(BundleRefused, match=r"^manifest\.json: "):
        Manifest.from_bytes(original[:at] + bytes([byte]) + original[at + 1 :])


@settings(deadline=None)
@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("seal"), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_anything_else_is_refused_not_raised(data: bytes) -> None:
    with pytest.raises(BundleRefused):
        Manifest.from_bytes(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"[" * 100_000, b'{"seal":NaN}', b'{"seal":1e999}', b"9" * 5000, b"\xff\xfe", b" " * (MANIFEST_LIMIT + 1)],
    ids=["empty", "deep", "nan", "infinite", "long number", "no UTF-8", "large"],
)
def test_hostile_manifests_are_refused(data: bytes) -> None:
    with pytest.raises(BundleRefused, match=r"^manifest\.json: "):
        Manifest.from_bytes(data)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format_version": 1}, "format_version is 1, this release reads 2"),
        ({"surprise": 1}, "surprise"),
        ({"version": "../up"}, "version"),
        ({"version": "v1\n"}, "version"),
        ({"parent": "Not A Version"}, "parent"),
        ({"fusion": {"weight": -1.0}}, "fusion.weight"),
        ({"embedding_source": "thin air"}, "embedding_source"),
        ({"created_at": "2026-11-23T12:00:00"}, "created_at"),
        ({"config": {"beam_width": "20"}}, "config.beam_width"),
        ({"metrics": {"test": {"ndcg": "high"}}}, "metrics"),
        ({"files": {}}, "files lacks catalogue.parquet"),
    ],
)
def test_a_sealed_manifest_must_still_be_valid(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(BundleRefused) as caught:
        Manifest.from_bytes(resealed(change))
    assert problem in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "name",
    [
        "model.pkl",
        "weights.pt",
        "../LIVE",
        "/etc/passwd",
        "report/../x",
        "report//x",
        "report/.hidden",
        "report/",
        "search.onnx/x",
        "report\\x",
        "manifest.json",
        "report/a/b/c/d/e",
    ],
)
def test_only_files_of_a_bundle_can_be_sealed(name: str) -> None:
    with pytest.raises(ValidationError, match="which is not a file of a bundle"):
        manifest(files=SEALS | {name: FileSeal.of(b"")})


@pytest.mark.parametrize("name", ["content.onnx", "report/index.html", "report/plots/loss_1.png"])
def test_optional_files_can_be_sealed(name: str) -> None:
    assert name in manifest(files=SEALS | {name: FileSeal.of(b"")}).files


def test_version_names_tell_time_and_content() -> None:
    here = datetime(2026, 11, 23, 18, 52, 33, tzinfo=timezone(timedelta(hours=1)))
    name = new_version(here, SEALS)
    assert name.startswith("20261123t175233z-")
    assert VERSION.fullmatch(name)
    assert new_version(here, SEALS | {"search.onnx": FileSeal.of(b"other")}) != name
    assert new_version(here + timedelta(seconds=1), SEALS) > name
