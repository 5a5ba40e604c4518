"""Snapshots of the catalogue when a version is loaded: the first replica saves one, and the next ones start from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.bundle.bundle import Bundle
from model_store.bundle.registry import ModelStore
from model_store.catalogue.catalogue import Catalogue
from service.app import create_app
from service.store.change_stream import START, Snapshot
from service.store.embedded_store import EmbeddedStore
from tests.support.bundles import small_catalogue
from tests.support.service_harness import fast_settings, live_store, metric, until

pytestmark = pytest.mark.anyio


async def test_the_first_replica_saves_the_snapshot_and_the_next_loads_it(tmp_path: Path) -> None:
    version = live_store(tmp_path)
    store = EmbeddedStore(tmp_path / "events")
    service = create_app(fast_settings(tmp_path), store=store).state.service
    await service.models.poll()
    await until(lambda: metric(service, "etegrec_snapshots_total", result="saved") == 1)
    saved = await store.catalogue.load_snapshot(version)
    assert saved is not None
    assert Catalogue.from_arrays(saved.arrays).digest() == small_catalogue().digest()
    other = create_app(fast_settings(tmp_path), store=store).state.service
    await other.models.poll()
    assert metric(other, "etegrec_snapshots_total", result="loaded") == 1
    assert other.models.current.lineage == service.models.current.lineage == saved.lineage
    for each in (service, other):
        await each.models.close()
    await store.close()


@pytest.mark.parametrize("flaw", ["no catalogue", "another origin"])
async def test_a_snapshot_of_something_else_is_refused_and_repaired(tmp_path: Path, flaw: str) -> None:
    version = live_store(tmp_path)
    origin = ModelStore(tmp_path).bundle(version).manifest.files["catalogue.parquet"].sha256
    arrays = small_catalogue(items=7).arrays() if flaw != "no catalogue" else {}
    wrong = Snapshot(START, "a" * 32, origin if flaw == "no catalogue" else "b" * 64, arrays)

    async def make() -> Snapshot:
        return wrong

    store = EmbeddedStore(tmp_path / "events")
    await store.catalogue.save_snapshot(version, make)
    service = create_app(fast_settings(tmp_path), store=store).state.service
    await service.models.poll()
    assert len(service.models.current.catalogue) == 40
    await until(lambda: metric(service, "etegrec_snapshots_total", result="saved") == 1)
    assert metric(service, "etegrec_snapshots_total", result="refused") >= 1
    repaired = await store.catalogue.load_snapshot(version)
    assert repaired is not None
    assert repaired.lineage == service.models.current.lineage != wrong.lineage
    assert len(Catalogue.from_arrays(repaired.arrays)) == 40
    await service.models.close()
    await store.close()


async def test_the_first_boot_reads_no_vectors_for_a_snapshot_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_store(tmp_path)
    read: list[object] = []
    vectors = Bundle.vectors

    def count(bundle: Bundle) -> object:
        read.append(bundle)
        return vectors(bundle)

    monkeypatch.setattr(Bundle, "vectors", count)
    store = EmbeddedStore(tmp_path / "events")
    for boots in (0, 1):
        service = create_app(fast_settings(tmp_path), store=store).state.service
        await service.models.poll()
        assert len(read) == boots + 1  # with the catalogue as it was trained; later for the snapshot alone
        if not boots:
            await until(lambda: metric(service, "etegrec_snapshots_total", result="saved") == 1)  # noqa: B023
        await service.models.close()
    await store.close()
