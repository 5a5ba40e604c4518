"""Events over HTTP: what the service made is said, by place, and only then."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.service_harness import live_store, serving

pytestmark = pytest.mark.anyio


async def test_the_answer_says_what_the_service_made(tmp_path: Path) -> None:
    live_store(tmp_path)
    bare = {"user_id": 7, "item_id": "item-3", "type": "view"}
    async with serving(tmp_path) as (client, _):
        before = int(time.time())
        both = (await client.post("/events", json=[bare, {**bare, "event_id": "mine", "timestamp": 5}])).json()
        again = (await client.post("/events", json={**bare, "event_id": both["event_ids"][0]})).json()
        given = (await client.post("/events", json={**bare, "event_id": 12, "timestamp": "2026-01-05"})).json()
        user = await client.get("/users/7")

    assert (both["accepted"], both["duplicates"]) == (2, 0)
    assert both["event_ids"][1] == "mine"
    assert before <= both["timestamps"][0] <= time.time()
    assert both["timestamps"][1] == 5
    assert (again["accepted"], again["duplicates"]) == (0, 1)
    assert "event_ids" not in again
    assert len(again["timestamps"]) == 1
    assert given == {"accepted": 1, "duplicates": 0}
    assert user.json()["history"].count("item-3") == 3
