"""The version of an alias is loaded beside the live one, within its memory, and never hurts it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from model_store.bundle.registry import ModelStore
from service.app import create_app
from service.service import Service
from tests.support.bundles import publish_small
from tests.support.hash_coder import hash_coder
from tests.support.service_harness import fast_settings, live_store, loaded_model, metric, running, serving, until

pytestmark = pytest.mark.anyio


def followers() -> int:
    """Return how many models' catalogues follow the changes."""
    running_code = [task.get_coro() for task in asyncio.all_tasks()]
    return sum(getattr(each, "__qualname__", "") == "CatalogueUpdater.watch" for each in running_code)


async def test_changes_are_followed_for_it_only_as_long_as_it_is_there(tmp_path: Path) -> None:
    live_store(tmp_path, 0)
    store = ModelStore(tmp_path)
    async with serving(tmp_path) as (_, service):
        model = service.second_models.shadow
        await until(lambda: service.models.current is not None)
        assert followers() == 1, "that of the live model"

        store.set_alias("shadow", publish_small(store, 1))
        await until(lambda: model.current is not None)
        assert followers() == 2
        store.remove_alias("shadow")
        await until(lambda: model.state == "absent")
        assert (model.current, followers()) == (None, 1)


async def test_one_that_is_loaded_while_another_is_drained_keeps_what_it_needs(tmp_path: Path) -> None:
    """A canary that is rolled back lets its model go while the next version may get the alias already."""
    live_store(tmp_path, 0)
    store = ModelStore(tmp_path)
    store.set_alias("shadow", publish_small(store, 1))
    async with serving(tmp_path) as (_, service):
        model = service.second_models.shadow
        await until(lambda: model.current is not None)
        with model.lease():
            drained = asyncio.create_task(model.end())
            await until(lambda: model.current is None)
            await until(lambda: model.current is not None)  # the alias is still there: loaded again
            assert not drained.done()
        await drained
        assert followers() == 2, "that of the live model and of the one that came"
        assert model.memory_bytes > 0


async def test_one_that_does_not_fit_is_refused_with_both_figures_and_the_live_one_answers(tmp_path: Path) -> None:
    live = live_store(tmp_path, 0)
    store = ModelStore(tmp_path)
    version = publish_small(store, 1)
    store.set_alias("candidate", version)
    async with serving(tmp_path, second_models_mb=0) as (client, service):
        await until(lambda: service.second_models.candidate.state == "refused")
        shown = (await client.get("/models")).json()["candidate"]
        assert metric(service, "etegrec_alias_loads_total", alias="candidate", result="over_budget") >= 1
        answer = (await client.post("/recommend", json={"user_id": "u", "history": ["item-1"]})).json()
        assert service.problem == "", "the live model has none"
        await until(lambda: followers() == 1)  # what it took to try it is gone
    assert answer["model_version"] == live
    assert (shown["state"], shown["memory_mb"]) == ("refused", 0)
    assert "takes 1 MB beside the live version, and 0 of 0 MB are left" in shown["problem"]
    assert "ETEGREC_SECOND_MODELS_MB" in shown["problem"]


async def test_a_damaged_one_is_refused_and_another_one_takes_its_place(tmp_path: Path) -> None:
    live = live_store(tmp_path, 0)
    store = ModelStore(tmp_path)
    damaged, good = (publish_small(store, seed) for seed in (1, 2))
    store.set_alias("shadow", damaged)
    (tmp_path / damaged / "golden.json").write_bytes(b"{}")
    async with serving(tmp_path) as (_, service):
        model = service.second_models.shadow
        await until(lambda: model.state == "refused")
        assert metric(service, "etegrec_alias_loads_total", alias="shadow", result="refused") >= 1
        assert loaded_model(service).version == live

        store.set_alias("shadow", good)
        await until(lambda: model.current is not None)
        assert metric(service, "etegrec_alias_info", alias="shadow", version=good) == 1
        assert model.memory_bytes > 0


async def test_a_promoted_candidate_is_freed_once_it_is_live(tmp_path: Path) -> None:
    live_store(tmp_path, 0)
    store = ModelStore(tmp_path)
    version = publish_small(store, 1)
    store.set_alias("candidate", version)
    async with serving(tmp_path) as (_, service):
        model = service.second_models.candidate
        await until(lambda: model.current is not None)
        store.promote(version)
        await until(lambda: loaded_model(service).version == version)
        await until(lambda: model.state == "absent")
        assert (model.current, model.memory_bytes) == (None, 0)


async def test_a_candidate_has_the_changes_of_the_catalogue_and_never_an_item_that_was_hidden(tmp_path: Path) -> None:
    live_store(tmp_path, 0)
    store = ModelStore(tmp_path)
    app = create_app(fast_settings(tmp_path, catalogue_poll_s=0.01), coders=hash_coder)
    service: Service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        assert (await client.put("/items/before", json={"title": "Before"})).status_code == 200
        store.set_alias("candidate", publish_small(store, 1), 0.5)
        model = service.second_models.candidate
        await until(lambda: service.canary.trial is not None)
        assert model.current is not None
        assert model.current.catalogue.row("before") is not None

        assert (await client.put("/items/after", json={"title": "After"})).status_code == 200
        await until(lambda: model.current is not None and model.current.catalogue.row("after") is not None)
        assert (await client.delete("/items/item-2")).status_code == 200
        for user in range(20):
            asked = {"user_id": f"u{user}", "history": ["item-1"], "k": 40}
            answer = (await client.post("/recommend", json=asked)).json()
            assert "item-2" not in [each["item_id"] for each in answer["items"]]
        assert service.models.current is not None
        await until(lambda: model.current is not None and model.current.revision == loaded_model(service).revision)
