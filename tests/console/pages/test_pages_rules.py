"""Pages of placements, experiments and new items, in a simulated browser before the real service."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from nicegui import ui
from nicegui.elements.mixins.value_element import ValueElement
from nicegui.testing import User

from console.views.preview import UNREAD
from tests.support.console_pages import PATIENCE, click, console_of
from tests.support.service_harness import live_store, until_answered

pytestmark = pytest.mark.anyio


def fill(user: User, label: str, value: object) -> None:
    """Write into the newest field of a label; fail if there is none."""
    assert user.client is not None
    fields = [
        each
        for each in user.client.elements.values()
        if isinstance(each, ValueElement) and each.props.get("label") == label
    ]
    assert fields, f"the page has no field {label!r}"
    fields[-1].value = value


async def test_a_placement_is_made_tried_saved_changed_and_deleted(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with console_of(tmp_path, allow_changes=True) as (user, client, _):
        await user.open("/placements")
        await user.should_see("There is no placement yet", retries=PATIENCE)

        await user.open("/placement")
        await user.should_see("Try it before you save", retries=PATIENCE)
        fill(user, "Name, such as home or cart", "home")
        fill(user, "What it is for", "The start page")
        fill(user, "Items wanted", 6)
        fill(user, "No items of these categories", ["category-2"])
        click(user, "Add a boost")
        fill(user, "Names or ids", ["category-1"])
        fill(user, "Nats", 20)
        fill(user, "Places at the end of the answer", "share")
        fill(user, "Percent of the places", 30)
        click(user, "Try these rules")
        await user.should_see("Answers that change", retries=PATIENCE)
        await user.should_see("Items that gain", retries=PATIENCE)
        assert (await client.get("/placements")).json()["placements"] == []

        click(user, "Save")
        await user.should_see("revision 1", retries=PATIENCE)
        stored = (await client.get("/placements/home")).json()
        assert stored["description"] == "The start page"
        assert stored["rules"] == {
            "k": 6,
            "filter": {"not": {"categories": ["category-2"]}},
            "boosts": [{"nats": 20, "categories": ["category-1"]}],
            "exploration": {"share": 0.3},
        }

        fill(user, "Items wanted", 4)
        click(user, "Save")
        await user.should_see("without a try?", retries=PATIENCE)
        click(user, "Save")
        await user.should_see("revision 2", retries=PATIENCE)
        assert (await client.get("/placements/home")).json()["rules"]["k"] == 4

        await client.put("/placements/home", json={"k": 9})
        click(user, "Delete")
        await user.should_see("first take it out of the shop", retries=PATIENCE)
        click(user, "Delete placement")
        await user.should_see("It was changed meanwhile", retries=PATIENCE)
        await user.open("/placement?name=home")
        await user.should_see(kind=ui.button, content="Delete", retries=PATIENCE)
        click(user, "Delete")
        await user.should_see("first take it out of the shop", retries=PATIENCE)
        click(user, "Delete placement")
        await user.should_see("There is no placement yet", retries=PATIENCE)


async def test_what_a_form_cannot_read_is_told_and_nothing_is_sent(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with console_of(tmp_path, allow_changes=True) as (user, client, _):
        await user.open("/placement")
        await user.should_see("Try it before you save", retries=PATIENCE)
        fill(user, "Name, such as home or cart", "home")
        click(user, "Add a pin")
        click(user, "Save")
        await user.should_see("Pin 1: give a place and the id of an item", retries=PATIENCE)
        fill(user, "Id of the item", "item-4")
        fill(user, "Boosts as at, UTC", "never")
        click(user, "Try these rules")
        await user.should_see("Boosts as at: give a day and a time", retries=PATIENCE)
        assert (await client.get("/placements")).json()["placements"] == []


async def test_the_service_says_why_it_refuses_a_placement(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with console_of(tmp_path, allow_changes=True) as (user, _, __):
        await user.open("/placement")
        await user.should_see("Try it before you save", retries=PATIENCE)
        fill(user, "Name, such as home or cart", "home")
        click(user, "Add a range of numbers")
        fill(user, "Attribute, such as year", "weight")
        fill(user, "At least", 3)
        click(user, "Try these rules")
        await user.should_see("fields with numbers: year", retries=PATIENCE)


async def test_coming_changes_are_listed_and_rules_told_in_words(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with console_of(tmp_path) as (user, client, _):
        begin = int(time.time()) + 3600
        boost = {"nats": 0.5, "categories": ["category-1"], "from": begin}
        await client.put("/placements/home", json={"k": 12, "boosts": [boost]})
        await user.open("/placements")
        await user.should_see("12 items, +0.5 for category-1 (not now)", retries=PATIENCE)
        await user.should_see("+0.5 for category-1 begins")
        await user.should_not_see(kind=ui.button, content="New placement")
        await user.open("/placement?name=home")
        await user.should_see("Try it before you save", retries=PATIENCE)
        await user.should_not_see(kind=ui.button, content="Save")


async def test_an_experiment_is_made_read_ended_and_deleted(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with console_of(tmp_path, allow_changes=True) as (user, client, _):
        await user.open("/experiments")
        await user.should_see("There is no experiment yet", retries=PATIENCE)
        await user.open("/experiment")
        await user.should_see("Store the experiment", retries=PATIENCE)
        click(user, "Store the experiment")
        await user.should_see("Give the experiment a name", retries=PATIENCE)
        fill(user, "Name, such as fresh-start", "fresh-start")
        fill(user, "What is tried, and why", "Do newer ones sell more?")
        fill(user, "Items wanted", 3)
        click(user, "Store the experiment")
        await user.should_see("Nobody is in it yet", retries=PATIENCE)
        await user.should_see("No placement names it")
        variants = (await client.get("/experiments/fresh-start")).json()["experiment"]["variants"]
        assert variants == [{"name": "control", "share": 0.5}, {"name": "new", "share": 0.5, "rules": {"k": 3}}]

        await client.put("/placements/home", json={"experiment": "fresh-start"})
        await client.post("/events", json=[{"user_id": f"u{row}", "item_id": "item-1"} for row in range(8)])
        for row in range(8):
            await client.post("/recommend", json={"user_id": f"u{row}", "placement": "home"})
        await user.open("/experiments")
        await user.should_see("control 50.0 %, new 50.0 %", retries=PATIENCE)

        await until_answered(
            client,
            "/experiments/fresh-start/report",
            lambda report: sum(each["answers"] for each in report["variants"]) == 8,
        )
        await user.open("/experiment?name=fresh-start")
        await user.should_see("Can it be trusted?", retries=PATIENCE)
        await user.should_see("Placement home")
        click(user, "End it now")
        await user.should_see("it cannot be begun again", retries=PATIENCE)
        assert (await client.get("/experiments/fresh-start")).json()["status"] == "running"
        click(user, "End it")
        await user.should_see("It ended without a difference", retries=PATIENCE)
        click(user, "Delete")
        await user.should_see("lost for good", retries=PATIENCE)
        click(user, "Delete experiment")
        await user.should_see("There is no experiment yet", retries=PATIENCE)


async def test_a_report_needs_a_key_and_says_so(tmp_path: Path) -> None:
    live_store(tmp_path)
    keys = {"read_keys": "the-right-key", "admin_keys": "the-admin-key"}
    async with console_of(tmp_path, service=keys, key="the-right-key") as (user, client, _):
        body = {"variants": [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5}]}
        await client.put("/experiments/e", json=body, headers={"X-API-Key": "the-admin-key"})
        await user.open("/experiment?name=e")
        await user.should_see("The key may not do this", retries=PATIENCE)


async def test_recent_answers_of_a_user_are_named_as_far_as_they_are_noted(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with console_of(tmp_path) as (user, client, _):
        await client.post("/events", json={"user_id": "u1", "item_id": "item-3"})
        await user.open("/users?id=u1")
        await user.should_see("None is noted", retries=PATIENCE)

        request = {"user_id": "u1", "k": 2, "exclude_shown": {"answers": 1}}
        items = (await client.post("/recommend", json=request)).json()["items"]
        await until_answered(client, "/users/u1", lambda user: bool(user["recent_answers"]))
        await user.open("/users?id=u1")
        await user.should_see(", ".join(item["title"] for item in items), retries=PATIENCE)


async def test_the_audience_of_a_new_item_is_shown_before_it_is_added(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with console_of(tmp_path, allow_changes=True) as (user, client, _):
        await user.open("/new-item")
        click(user, "See its audience")
        await user.should_see("Give a title, categories or attributes", retries=PATIENCE)
        fill(user, "Title", "A brand new one")
        click(user, "See its audience")
        await user.should_see("In the first 50", retries=PATIENCE)
        await user.should_see("Most like it")
        assert (await client.get("/items", params={"query": "brand new"})).json()["total"] == 0

        fill(user, "Id, as your shop names the item", "n1")
        click(user, "Add the item")
        await user.should_see("Items like it", retries=PATIENCE)
        assert (await client.get("/items/n1")).json()["title"] == "A brand new one"


async def test_a_new_item_of_which_nothing_can_be_read_is_told_before_and_after(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with console_of(tmp_path, allow_changes=True) as (user, client, _):
        await user.open("/new-item")
        fill(user, "Title", "?!")
        click(user, "See its audience")
        await user.should_see(UNREAD, retries=PATIENCE)
        await user.should_not_see("Most like it")

        fill(user, "Id, as your shop names the item", "n1")
        click(user, "Add the item")
        await user.should_see("Nothing can be read of it, or", retries=PATIENCE)
        assert (await client.get("/items/n1")).json()["title"] == "?!"
