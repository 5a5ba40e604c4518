"""Users: what is stored of one user, and forgetting the user."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from etegrec_client import NotFound
from etegrec_client.types import ItemResponse, UserResponse
from nicegui import ui

from console.api.service_api import ServiceApi
from console.pages.frame import Backend, page_frame
from console.parts import (
    Section,
    attempt,
    confirmed,
    fact,
    heading,
    item_link,
    moment,
    note,
    number,
    show_empty,
    table,
    titled,
)

SHOWN = 50
"""Interactions of a history that are listed, the newest ones."""

SHOWN_ANSWERS = 10
"""Recent answers that are listed, the newest ones."""

FIRST = 5
"""Items of each that are named."""


@dataclass(frozen=True)
class UserState:
    """What is stored of a user, with the titles of the newest items."""

    user: UserResponse
    title_of: dict[str, str | None]


def user_url(user_id: str) -> str:
    """Return the address of the page of a user."""
    return f"/users?{urlencode({'id': user_id})}"


def show_users(backend: Backend, user_id: str) -> None:
    """Build the page; an empty id shows only the search."""
    purpose = "What is stored of one user, and how to forget it. This is personal data: it needs a key of scope admin."
    with page_frame(backend, "/users", "Users", purpose) as api:
        _show_search(user_id)
        if not user_id:
            show_empty("No user chosen", "Type a user id, exactly as your shop sends it with events.")
            return
        section = Section(
            lambda: load_user(api, user_id), lambda state: _show(state, backend, api, section), "Reading …"
        )
        section.start()


def _show_search(user_id: str) -> None:
    with ui.element("form").classes("row-line") as form:
        field = ui.input("User id", value=user_id).props('outlined dense maxlength="128" autofocus')
        ui.button("Show", on_click=lambda: ui.navigate.to(user_url(field.value.strip()))).props("type=submit")
    form.on("submit.prevent", lambda: ui.navigate.to(user_url(field.value.strip())))


async def load_user(api: ServiceApi, user_id: str) -> UserState:
    """Return what is stored of a user, with titles."""
    user = await api.acting.get_user(user_id)
    answered = [item_id for each in user["recent_answers"][-SHOWN_ANSWERS:] for item_id in each["items"][:FIRST]]
    items = await load_items(api, list(dict.fromkeys([*reversed(user["history"][-SHOWN:]), *answered])))
    return UserState(user, {item_id: item["title"] if item else None for item_id, item in items.items()})


async def load_items(api: ServiceApi, item_ids: Sequence[str]) -> dict[str, ItemResponse | None]:
    """Return items by id; ``None`` for those that the catalogue lacks."""

    async def load(item_id: str) -> ItemResponse | None:
        try:
            return await api.looking.get_item(item_id)
        except NotFound:
            return None

    return dict(zip(item_ids, await asyncio.gather(*(load(each) for each in item_ids)), strict=True))


def _show(state: UserState, backend: Backend, api: ServiceApi, section: Section[UserState]) -> None:
    user = state.user
    if not user["count"] and not user["recent_answers"]:
        show_empty(
            f"Nothing is stored of “{user['user_id']}”",
            "The user had no event yet, was forgotten, or has another id. Popular items are recommended meanwhile.",
        )
        return

    with ui.element("div").classes("cards"):
        fact("Interactions", number(user["count"]), "stored; the newest ones count for recommendations")
        fact("Newest event", moment(user["newest_event_at"]))
    with ui.element("div").classes("row-line"):
        ui.link("Ask for this user", f"/ask?{urlencode({'user': user['user_id']})}")
        if backend.settings.can_change:
            ui.button("Forget this user", on_click=lambda: _forget(api, user["user_id"], section)).props(
                "outline color=negative"
            )
        else:
            note("Read-only: to forget a user, start the console with ETEGREC_CONSOLE_WRITE_KEY.")

    if user["count"]:
        _show_history(state)
    _show_answers(state)


def _show_history(state: UserState) -> None:
    user = state.user
    heading(2, "History")
    rows = [
        (
            moment(each["timestamp"]),
            each["type"] or "–",
            lambda each=each: item_link(each["item_id"], state.title_of.get(each["item_id"])),
        )
        for each in reversed(user["interactions"][-SHOWN:])
    ]
    table(
        f"The newest {len(rows)} of {number(user['count'])} interactions, newest first", ("When", "What", "Item"), rows
    )


def _show_answers(state: UserState) -> None:
    answers = state.user["recent_answers"][-SHOWN_ANSWERS:]
    heading(2, "Recent answers")
    if not answers:
        note("None is noted. The service keeps answers to requests and placements with exclude_shown, for a week.")
        return
    rows = [
        (
            moment(each["timestamp"]),
            number(len(each["items"])),
            ", ".join(titled(item_id, state.title_of.get(item_id)) for item_id in each["items"][:FIRST]),
        )
        for each in reversed(answers)
    ]
    table("Answers with exclude_shown, newest first", ("When", "Items", f"The first {FIRST}"), rows)


async def _forget(api: ServiceApi, user_id: str, section: Section[UserState]) -> None:
    agreed = await confirmed(
        f"Forget “{user_id}”?",
        "The history and every event that waits for training are erased, at once and for good. "
        "Models that were trained before keep what they learned until the next training.",
        "Forget",
    )
    if agreed and await attempt(api.acting.delete_user(user_id), "The user is forgotten") is not None:
        await section.reload()
