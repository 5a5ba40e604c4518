from __future__ import annotations

import json
import math
import re
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
        ({"training": "a" * 63}, "training"),
        ({"training": "A" * 64}, "training"),
        ({"files": {"search.onnx": {"sha256": "A" * 64, "size": 1}}}, "sha256"),
        ({"files": {"search.onnx": {"sha256": "a" * 65, "size": 1}}}, "sha256"),
        ({"files": {"search.onnx": {"sha256": "a" * 64, "size": -1}}}, "size"),
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
    assert re.fullmatch(r"\d{8}t\d{6}z-[0-9a-f]{8}", name), "leftovers are told by this form"
    assert new_version(here, SEALS | {"search.onnx": FileSeal.of(b"other")}) != name
    assert new_version(here + timedelta(seconds=1), SEALS) > name


def test_a_change_without_a_new_seal_is_refused() -> None:
    """Also one that is written as a manifest is written: the seal itself must catch it."""
    content = json.loads(manifest().to_bytes())
    content["metrics"]["generative"]["ndcg@10"] = 0.75
    with pytest.raises(BundleRefused, match="does not match its own seal"):
        Manifest.from_bytes(canonical(content))


def test_a_manifest_has_one_form_and_stays_as_it_is() -> None:
    """Signatures are of the bytes, so the same content in other bytes is another manifest."""
    read = Manifest.from_bytes(manifest().to_bytes())
    with pytest.raises(ValidationError, match="frozen"):
        read.version = "v2"  # type: ignore[misc]
    content = json.loads(manifest().to_bytes())
    with pytest.raises(BundleRefused, match="does not match its own seal"):
        Manifest.from_bytes(json.dumps(content, sort_keys=True).encode())


def test_the_same_content_has_the_same_bytes() -> None:
    assert canonical({"b": "\xe4", "a": [1, 2.5]}) == canonical({"a": [1, 2.5], "b": "\xe4"})
    assert canonical({"b": "\xe4", "a": [1, 2.5]}) == b'{"a":[1,2.5],"b":"\\u00e4"}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": math.nan})


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_metrics_are_numbers(number: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        manifest(metrics={"test": {"ndcg@10": number}})


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (Origin("d", "t"), Origin("d", "t"), True),
        (Origin("d", "t"), Origin("d", "u"), False),
        (Origin("d", "t"), Origin("e", "t"), False),
        (Origin("d", None), Origin("d", "t"), True),
        (Origin("d", "t"), Origin("d", None), True),
        (Origin("d", None), Origin("d", None), True),
        (Origin("d", None), Origin("e", None), False),
    ],
)
def test_origins_match_by_data_and_by_settings_where_both_are_known(one: Origin, other: Origin, is_same: bool) -> None:
    assert one.matches(other) is is_same
