"""The page of models, in a simulated browser before the real service."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.bundle.registry import ModelStore
from service.service import Service
from tests.support.bundles import publish_small
from tests.support.console_pages import PATIENCE, click, console_of
from tests.support.service_harness import live_store, until

pytestmark = pytest.mark.anyio


def counted_everywhere(service: Service) -> int:
    """Return the answers of the canary that the store has, as this replica read it last."""
    trial = service.canary.trial
    found = None if trial is None else trial.everywhere
    return 0 if found is None else sum(each.answers for each in found.values())


async def test_candidate_and_shadow_are_compared_and_the_commands_named(tmp_path: Path) -> None:
    live = live_store(tmp_path)
    store = ModelStore(tmp_path)
    candidate = publish_small(store, 1)
    shadow = publish_small(store, 2)
    async with console_of(tmp_path) as (user, client, service):
        await user.open("/models")
        await user.should_see("No version is tried", retries=PATIENCE)
        await user.should_see(live)
        await user.should_see("No answer was counted", retries=PATIENCE)
        await user.should_see("No canary was rolled back")

        store.set_alias("candidate", candidate, 0.5)
        store.set_alias("shadow", shadow, 1.0)
        await until(lambda: service.canary.trial is not None and service.shadow.is_on)
        for row in range(160):
            response = await client.post("/recommend", json={"user_id": f"u{row}", "history": ["item-1"]})
            assert response.status_code == 200
        await until(lambda: counted_everywhere(service) == 160)
        click(user, "Refresh")
        await user.should_see("The candidate does no worse so far", retries=PATIENCE)
        await user.should_see(f"etegrec-models promote {candidate}")
        await user.should_see("share of failed requests")
        await user.should_see("of an answer's items, the shadow finds as well")
        await user.should_see("The same requests by both")
        await user.should_see("By day of the answer, UTC", retries=PATIENCE)


async def test_a_candidate_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    live_store(tmp_path)
    store = ModelStore(tmp_path)
    candidate = publish_small(store, 1)
    store.set_alias("candidate", candidate, 0.5)
    async with console_of(tmp_path, service={"second_models_mb": 0}) as (user, _, service):
        await until(lambda: service.second_models.candidate.state == "refused")
        await user.open("/models")
        await user.should_see("The candidate was not loaded", retries=PATIENCE)
        await user.should_see(f"etegrec-models verify {candidate}")


async def test_without_a_model_the_page_says_how_to_get_one(tmp_path: Path) -> None:
    async with console_of(tmp_path) as (user, _, __):
        await user.open("/models")
        await user.should_see("No version answers", retries=PATIENCE)
        await user.should_see("etegrec-models promote VERSION", retries=PATIENCE)


async def test_trials_and_clicks_need_a_key_and_say_so(tmp_path: Path) -> None:
    live = live_store(tmp_path)
    keys = {"read_keys": "the-right-key", "admin_keys": "the-admin-key"}
    async with console_of(tmp_path, service=keys, key="the-right-key") as (user, _, __):
        await user.open("/models")
        await user.should_see("The key may not do this", retries=PATIENCE)
        await user.should_see(live, retries=PATIENCE)
        await user.should_see("Needs a key of scope admin as well", retries=PATIENCE)
