"""Codes of sealed versions: those of the service, without a loaded model; what is not there has none."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from model_store.attribution.names import hash_of
from model_store.bundle.registry import ModelStore
from service.attribution import sealed_codes
from service.attribution.sealed_codes import SealedCodes
from tests.support.service_harness import live_store


def test_codes_are_those_of_the_catalogue(tmp_path: Path) -> None:
    version = live_store(tmp_path)
    store = ModelStore(tmp_path)
    catalogue = store.bundle(version).catalogue()
    codes = SealedCodes(store)
    found = [codes.first_code(hash_of(version), item_id) for item_id in catalogue.item_ids]
    assert found == catalogue.codes[:, 0].tolist()
    assert codes.first_code(hash_of(version), "no-such-item") is None


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_version_that_cannot_be_read_is_said_once_and_tried_again(
    tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "models"
    version = "20260105-101500-abcdef"
    mended = b""
    if harm == "damaged":
        version = live_store(place)
        table = place / version / "catalogue.parquet"
        mended = table.read_bytes()
        table.write_bytes(b"PAR1")

    codes = SealedCodes(ModelStore(place))
    with structlog.testing.capture_logs() as said:
        for _ in range(3):
            assert codes.first_code(hash_of(version), "item-1") is None
    assert [each["event"] for each in said] == ["codes_not_found"]

    if harm == "damaged":
        table.write_bytes(mended)
        monkeypatch.setattr(sealed_codes, "RETRY_S", 0.0)
        assert codes.first_code(hash_of(version), "item-1") is not None


def test_it_keeps_the_versions_that_were_used_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_codes, "KEPT_VERSIONS", 1)
    versions = [live_store(tmp_path, seed) for seed in (0, 1)]
    codes = SealedCodes(ModelStore(tmp_path))
    for version in versions:
        assert codes.first_code(hash_of(version), "item-1") is not None
    assert list(codes._tables) == [hash_of(versions[1])]
