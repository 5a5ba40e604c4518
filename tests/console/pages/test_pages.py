"""All pages as a visitor sees them, in a simulated browser before the real service."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from nicegui import ui

from console.pages.frame import NAVIGATION
from tests.support.console_pages import PATIENCE, click, console_of, visiting
from tests.support.service_harness import live_store

pytestmark = pytest.mark.anyio

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
PATHS = [*(path for path, _ in NAVIGATION), "/item?id=item-3", "/users?id=u1", "/ask?user=u1", "/codes?user=u1"]


async def test_the_overview_says_what_is_live_and_that_all_is_well(tmp_path: Path) -> None:
    version = live_store(tmp_path)
    async with console_of(tmp_path) as (user, client, _):
        await client.post("/recommend", json={"history": ["item-1"]})
        await user.open("/")
        await user.should_see("All is well", retries=PATIENCE)
        await user.should_see(version)
        await user.should_see("searched by the model", retries=PATIENCE)
        await user.should_see("read-only")


async def test_an_empty_model_store_is_told_with_what_to_do(tmp_path: Path) -> None:
    async with console_of(tmp_path) as (user, _, __):
        await user.open("/")
        await user.should_see("make demo", retries=PATIENCE)
        for path in ("/items", "/codes"):
            await user.open(path)
            await user.should_see("The service cannot answer now", retries=PATIENCE)


@pytest.mark.parametrize("path", PATHS)
async def test_every_page_says_that_the_service_is_away_and_tries_again(path: str) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    async with visiting(httpx.MockTransport(refuse)) as user:
        await user.open(path)
        if path in ("/ask", "/users"):
            await user.should_see(
                "Nobody to recommend to yet" if path == "/ask" else "No user chosen", retries=PATIENCE
            )
            return
        if path == "/ask?user=u1":
            return  # it tells so in a message that goes away
        await user.should_see("The service cannot be reached", retries=PATIENCE)
        await user.should_see("Try again")


async def test_a_key_that_is_refused_is_told_with_the_words_of_the_service(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with console_of(tmp_path, service={"read_keys": "the-right-key"}, key="some-other-key") as (user, _, __):
        await user.open("/items")
        await user.should_see("The key may not do this", retries=PATIENCE)
    async with console_of(tmp_path, service={"read_keys": "the-right-key"}, key="the-right-key") as (user, _, __):
        await user.open("/items")
        await user.should_see("Title 0", retries=PATIENCE)
        await user.open("/users?id=u1")
        await user.should_see("The key may not do this", retries=PATIENCE)


async def test_items_are_searched_and_shown_and_hostile_titles_stay_text(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with console_of(tmp_path) as (user, client, _):
        await client.put("/items/bad", json={"title": HOSTILE, "categories": [HOSTILE], "attributes": {"a": HOSTILE}})
        for path in ("/items?query=script", "/item?id=bad", "/ask?item=bad"):
            await user.open(path)
            await user.should_see(HOSTILE, retries=PATIENCE)
        assert user.client is not None
        html = [each for each in user.client.elements.values() if isinstance(each, ui.html | ui.markdown)]
        assert html == []

        await user.open("/items?query=nothing-like-it")
        await user.should_see("Nothing matches “nothing-like-it”", retries=PATIENCE)
        await user.open("/item?id=no-such-item")
        await user.should_see("There is no such thing", retries=PATIENCE)


async def test_an_item_is_hidden_only_after_a_question_and_comes_back(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with console_of(tmp_path, allow_changes=True) as (user, client, _):
        await user.open("/item?id=item-3")
        await user.should_see("Items like it", retries=PATIENCE)
        click(user, "Hide")
        await user.should_see("can be brought back", retries=PATIENCE)
        assert not (await client.get("/items/item-3")).json()["hidden"]

        click(user, "Cancel")
        await user.should_not_see("can be brought back", retries=PATIENCE)
        assert not (await client.get("/items/item-3")).json()["hidden"]

        click(user, "Hide")
        await user.should_see("can be brought back", retries=PATIENCE)
        click(user, "Hide")
        await user.should_see("Bring back", retries=PATIENCE)
        assert (await client.get("/items/item-3")).json()["hidden"]
        click(user, "Bring back")
        await user.should_see(kind=ui.button, content="Hide", retries=PATIENCE)
        assert not (await client.get("/items/item-3")).json()["hidden"]


async def test_nothing_can_be_changed_without_a_write_key(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with console_of(tmp_path) as (user, client, _):
        await client.post("/events", json={"user_id": "u1", "item_id": "item-3"})
        for path, shown in (("/items", "Title 0"), ("/item?id=item-3", "Items like it"), ("/users?id=u1", "History")):
            await user.open(path)
            await user.should_see(shown, retries=PATIENCE)
            for button in ("Hide", "Edit", "Add an item", "Forget this user"):
                await user.should_not_see(kind=ui.button, content=button)


async def test_a_history_gets_an_answer_with_reasons(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with console_of(tmp_path) as (user, client, _):
        await client.post("/events", json=[{"user_id": "u1", "item_id": f"item-{row}"} for row in (3, 4)])
        await user.open("/ask?user=u1")
        await user.should_see("The model searched for this answer.", retries=PATIENCE)
        items = (await client.post("/recommend", json={"history": ["item-3", "item-4"]})).json()["items"]
        for item in items:
            await user.should_see(item["title"])

        click(user, "Why?")
        await user.should_see("What the history contributed", retries=PATIENCE)
        await user.should_see("What the score is made of")
        await user.should_see("Probability of its codes")
        await user.should_not_see("Correction by the ranker")
        await user.should_see("The way down the code tree")


async def test_an_item_that_is_missed_is_found_and_explained(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with console_of(tmp_path) as (user, client, _):
        items = (await client.post("/recommend", json={"history": ["item-4"]})).json()["items"]
        answered = {item["item_id"] for item in items}
        missed = next(row for row in range(10, 40) if f"item-{row}" not in answered)
        await user.open("/ask?item=item-4")
        await user.should_see("The model searched for this answer.", retries=PATIENCE)

        [field] = [each for each in user.find(kind=ui.input).elements if "title, or its id" in each.props["label"]]
        field.value = f"item-{missed}"
        click(user, "Search")
        await user.should_see(kind=ui.button, content=f"Title {missed}", retries=PATIENCE)
        click(user, f"Title {missed}")
        await user.should_see("The last item of the answer scores higher.", retries=PATIENCE)
        await user.should_see("Its way down the code tree")


async def test_the_tree_shows_names_sizes_and_a_users_probability(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with console_of(tmp_path) as (user, client, _):
        root = (await client.get("/codes")).json()
        await user.open("/codes")
        await user.should_see("40 visible items", retries=PATIENCE)
        named = next(each for each in root["next_codes"] if each["name"])
        await user.should_see(named["name"])

        await client.post("/events", json={"user_id": "u1", "item_id": "item-3"})
        await user.open(f"/codes?prefix={named['code']}&user=u1&colour=user")
        await user.should_see("User's probability", retries=PATIENCE)
        await user.open("/codes?prefix=999")
        await user.should_see("There is no such thing", retries=PATIENCE)


async def test_a_user_is_forgotten_only_after_a_question(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with console_of(tmp_path, allow_changes=True) as (user, client, _):
        await client.post("/events", json={"user_id": "u1", "item_id": "item-3", "type": "purchase"})
        await user.open("/users?id=u1")
        await user.should_see("purchase", retries=PATIENCE)
        click(user, "Forget this user")
        await user.should_see("at once and for good", retries=PATIENCE)
        assert (await client.get("/users/u1")).json()["count"] == 1
        click(user, "Forget")
        await user.should_see("Nothing is stored of “u1”", retries=PATIENCE)
        assert (await client.get("/users/u1")).json()["count"] == 0
