"""The code tree coloured by what answers led to, in a simulated browser before the real service."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.console_pages import console_of
from tests.support.service_harness import live_store

pytestmark = pytest.mark.anyio

PATIENCE = 100
"""Looks at a page, a tenth of a second apart, until it must show something."""


async def test_groups_are_coloured_by_what_answers_showed_and_what_was_clicked(tmp_path: Path) -> None:
    version = live_store(tmp_path)
    async with console_of(tmp_path) as (user, client, service):
        await user.open("/codes?colour=exposure")
        await user.should_see("This version's answers showed nothing in the last 7 days", retries=PATIENCE)
        await user.open("/codes?colour=drift")
        await user.should_see("Too few recent events to see drift", retries=PATIENCE)

        await service.attribution_upkeep.step()
        answer = (await client.post("/recommend", json={"history": ["item-1"], "k": 10})).json()
        click = {"user_id": "u", "item_id": answer["items"][0]["item_id"], "attribution": answer["attribution"]}
        await client.post("/events", json=click)
        service.attribution_upkeep._counts.codes.hurry()
        await service.attribution_upkeep.step()
        for colour, meaning in (("exposure", "larger its share of the items"), ("clicks", "more clicks it got")):
            await user.open(f"/codes?colour={colour}")
            await user.should_see(meaning, retries=PATIENCE)
            await user.should_see(f"answers of version {version} showed 10 items and got 1 clicks, 10.0 % of them")
            await user.should_see("What answers led to, as a table")

        code = answer["items"][0]["codes"][0]
        await user.open(f"/codes?prefix={code}&colour=exposure")
        await user.should_see("Answers are counted by the first code only", retries=PATIENCE)


async def test_a_key_that_may_not_see_it_is_told(tmp_path: Path) -> None:
    live_store(tmp_path)
    keys = {"read_keys": "the-right-key", "admin_keys": "the-admin-key"}
    async with console_of(tmp_path, service=keys, key="the-right-key") as (user, _, __):
        await user.open("/codes?colour=drift")
        await user.should_see("This console may not see what answers led to", retries=PATIENCE)
        await user.should_see("visible items, in")
