"""Two versions side by side on the page Ask, in a simulated browser before the real service."""

from __future__ import annotations

from pathlib import Path

import pytest
from nicegui.elements.mixins.text_element import TextElement
from nicegui.testing import User

from model_store.bundle.registry import ModelStore
from tests.support.bundles import publish_small
from tests.support.console_pages import PATIENCE, console_of
from tests.support.service_harness import live_store, until

pytestmark = pytest.mark.anyio


def shown_texts(user: User) -> set[str]:
    """Return the texts on the page."""
    assert user.client is not None
    return {each.text for each in user.client.elements.values() if isinstance(each, TextElement)}


async def test_the_same_history_is_asked_of_both_versions(tmp_path: Path) -> None:
    live = live_store(tmp_path)
    store = ModelStore(tmp_path)
    candidate = publish_small(store, 1)
    store.set_alias("candidate", candidate, 0)
    async with console_of(tmp_path) as (user, client, service):
        await until(lambda: service.second_models.candidate.current is not None)
        await client.post("/events", json={"user_id": "u1", "item_id": "item-3"})
        asked = {"history": ["item-3"], "k": 10}
        answers = [
            (await client.post("/recommend", json={**asked, "model": name})).json()["items"]
            for name in ("live", "candidate")
        ]
        ids = [[each["item_id"] for each in answer] for answer in answers]
        common = len(set(ids[0]) & set(ids[1]))

        await user.open("/models")
        await user.should_see("Compare its answers with the live version's", retries=PATIENCE)
        await user.open("/ask?user=u1&beside=candidate")
        await user.should_see("The live version and the candidate", retries=PATIENCE)
        await user.should_see(live)
        await user.should_see(candidate)
        await user.should_see(f"{common} of 10")
        await user.should_see("Scores rank the items of one answer")
        for item_id in {*ids[0], *ids[1]}:
            await user.should_see(f"Title {item_id.removeprefix('item-')}")
        assert "new" in shown_texts(user)
        await user.should_see('"model":"candidate"')  # among the calls to copy


async def test_what_is_missing_is_told_with_what_to_do(tmp_path: Path) -> None:
    live_store(tmp_path)
    store = ModelStore(tmp_path)
    async with console_of(tmp_path, service={"second_models_mb": 0}) as (user, client, service):
        await client.post("/events", json={"user_id": "u1", "item_id": "item-3"})
        await user.open("/ask?beside=shadow")
        await user.should_see("Nobody to recommend to yet", retries=PATIENCE)
        await user.should_not_see("The live version and the shadow")

        await user.open("/ask?user=u1&beside=shadow")
        await user.should_see("No version is the shadow", retries=PATIENCE)
        await user.should_see("etegrec-models alias shadow VERSION --share 0")

        store.set_alias("candidate", publish_small(store, 1), 0.5)
        await until(lambda: service.second_models.candidate.state == "refused")
        await user.open("/ask?user=u1&beside=candidate")
        await user.should_see("The candidate is not loaded", retries=PATIENCE)
        await user.should_see("its state is refused")


async def test_a_key_that_may_not_choose_the_model_is_told(tmp_path: Path) -> None:
    live_store(tmp_path)
    keys = {"read_keys": "the-right-key", "admin_keys": "the-admin-key"}
    async with console_of(tmp_path, service=keys, key="the-right-key") as (user, _, __):
        await user.open("/ask?item=item-3&beside=candidate")
        await user.should_see("This console may not choose the model", retries=PATIENCE)
        await user.should_see("The model searched for this answer")
