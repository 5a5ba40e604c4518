"""What was shown and clicked by first code: added up off the path of answers, and shown by the real app."""

from __future__ import annotations

import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from model_store.attribution.code_counters import tally_codes
from model_store.bundle.registry import ModelStore
from model_store.events.counts import by_day, codes_of_day
from service.attribution.code_counts import MOST_WAITING, SEND_S, CodeCounts
from service.service import Service
from tests.support.service_harness import Json, live_store, loaded_model, serving, until

pytestmark = pytest.mark.anyio

CODES = np.array([[3, 1], [3, 2], [7, 0], [0, 0]], dtype=np.int16)
OTHER = np.array([[5, 1], [3, 2]], dtype=np.int16)
DAY_S = 86_400


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def rows(*numbers: int) -> Any:
    return np.array(numbers, dtype=np.int64)


def test_answers_add_up_by_day_version_and_code() -> None:
    clock = Clock()
    counts = CodeCounts(clock)
    counts.note(0, "v1", CODES, rows(0, 1, 2))
    counts.note(0, "v1", CODES, rows(0))
    counts.note(0, "v1", OTHER, rows(0, 1))  # the same version with a newer catalogue
    counts.note(0, "v2", CODES, rows(3))
    counts.note(DAY_S, "v1", CODES, rows(2))
    counts.note(DAY_S, "v1", CODES, rows())
    assert counts.take_counts() == []  # before it is time

    clock.now += SEND_S
    assert counts.is_due
    days = by_day(counts.take_counts())
    assert {day: tally_codes([amounts], "v1").shown for day, amounts in days.items()} == {
        codes_of_day("1970-01-01"): {3: 4, 7: 1, 5: 1},
        codes_of_day("1970-01-02"): {7: 1},
    }
    assert tally_codes(days.values(), "v2").shown == {0: 1}
    counts.hurry()
    assert counts.take_counts() == []


def test_it_keeps_no_more_answers_than_a_bound_and_loses_none() -> None:
    counts = CodeCounts(Clock())
    for _ in range(2 * MOST_WAITING + 5):
        counts.note(0, "v1", CODES, rows(0, 2))
    assert len(counts._waiting) == 5  # the rest is added up
    counts.hurry()
    [taken] = counts.take_counts()
    assert tally_codes([taken.amounts], "v1").shown == dict.fromkeys((3, 7), 2 * MOST_WAITING + 5)


async def code_attribution(client: httpx.AsyncClient, service: Service) -> Json:
    service.attribution_upkeep._counts.codes.hurry()
    await service.attribution_upkeep.step()
    response = await client.get("/attribution/codes", params={"days": 1})
    assert response.status_code == 200, response.text
    return dict(response.json())


async def send(client: httpx.AsyncClient, *events: Json) -> None:
    body = [{"user_id": "u", "timestamp": int(time.time()), **each} for each in events]
    assert (await client.post("/events", json=body)).status_code == 200


async def ask(client: httpx.AsyncClient, **given: Any) -> Json:
    return dict((await client.post("/recommend", json={"history": ["item-1"], "k": 40, **given})).json())


async def test_shown_and_clicked_by_code_are_those_of_the_answers(tmp_path: Path) -> None:
    version = live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        await service.attribution_upkeep.step()  # finds the key
        nothing = await code_attribution(client, service)
        assert (nothing["shown"], nothing["clicks"], nothing["model_version"]) == (0, 0, version)
        assert {(row["shown_share"], row["click_through"], row["drift"]) for row in nothing["codes"]} == {
            (None, None, None)
        }

        answers = [await ask(client, k=k, exclude_seen=False) for k in (5, 40, 3)]
        items = [item for answer in answers for item in answer["items"]]
        clicked = answers[0]["items"][1]
        click = {"item_id": clicked["item_id"], "type": "click", "attribution": answers[0]["attribution"]}
        await send(client, {**click, "event_id": "1"}, {**click, "event_id": "2"})
        await send(client, {**click, "event_id": "1"})  # repeated
        await send(client, {**click, "type": "purchase"})  # no click
        await send(client, {**click, "attribution": None})  # of no answer
        others = [
            f"item-{row}" for row in range(40) if f"item-{row}" not in {i["item_id"] for i in answers[0]["items"]}
        ]
        await send(client, {**click, "item_id": others[0]})  # not in its answer
        found = await code_attribution(client, service)

    shown = Counter(item["codes"][0] for item in items)
    assert {row["code"]: row["shown"] for row in found["codes"] if row["shown"]} == shown
    assert found["shown"] == len(items)
    assert {row["code"]: row["clicks"] for row in found["codes"] if row["clicks"]} == {clicked["codes"][0]: 2}
    [row] = [row for row in found["codes"] if row["clicks"]]
    assert row["click_through"] == pytest.approx(2 / shown[row["code"]])
    assert row["shown_share"] == pytest.approx(shown[row["code"]] / len(items))
    assert found["unplaced_clicks"] == 0


async def test_with_impression_events_only_those_count_as_shown(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, implicit_impressions=False) as (client, service):
        await service.attribution_upkeep.step()
        answer = await ask(client, k=5)
        seen = answer["items"][0]
        await send(client, {"item_id": seen["item_id"], "type": "impression", "attribution": answer["attribution"]})
        found = await code_attribution(client, service)
    assert {row["code"]: row["shown"] for row in found["codes"] if row["shown"]} == {seen["codes"][0]: 1}


async def test_a_click_on_an_answer_of_a_version_that_is_gone_has_no_code(tmp_path: Path) -> None:
    version = live_store(tmp_path, 0)
    async with serving(tmp_path) as (client, service):
        await service.attribution_upkeep.step()
        answer = await ask(client, k=5)
        newer = live_store(tmp_path, 1)
        await until(lambda: loaded_model(service).version == newer)
        click = {"item_id": answer["items"][0]["item_id"], "type": "click", "attribution": answer["attribution"]}
        await send(client, click)
        assert (await code_attribution(client, service))["shown"] == 0  # of the newer version

        ModelStore(tmp_path).promote(version)
        await until(lambda: loaded_model(service).version == version)
        found = await code_attribution(client, service)
    assert (found["shown"], found["clicks"], found["unplaced_clicks"]) == (5, 0, 1)


async def test_drift_compares_recent_events_with_training(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, trends_s=0.02) as (client, service):
        catalogue = loaded_model(service).catalogue
        first = catalogue.codes[:, 0]
        trained = np.bincount(first, weights=catalogue.popularity, minlength=8)
        code = int(np.flatnonzero(trained)[0])
        [row] = np.flatnonzero(first == code)[:1]
        body = [{"user_id": f"u{number}", "item_id": f"item-{row}", "event_id": str(number)} for number in range(300)]
        for start in (0, 100):
            response = await client.post("/events", json=body[start : start + 100])
            assert response.status_code == 200
            if start == 0:
                await until(lambda: sum(service.trends._long.values()) > 99.9)
                few = await code_attribution(client, service)
        await until(lambda: sum(service.trends._long.values()) > 199.9)
        found = await code_attribution(client, service)

    assert few["recent_events"] == pytest.approx(100, abs=0.1)
    assert few["recent_events"] < 100  # they fade, so these are too few
    assert few["stability"] is None
    present = np.unique(first)
    before = (trained[present] + 0.5) / (trained.sum() + 0.5 * len(present))
    since = (np.where(present == code, found["recent_events"], 0) + 0.5) / (found["recent_events"] + 0.5 * len(present))
    parts = (since - before) * np.log(since / before)
    assert found["stability"] == pytest.approx(parts.sum())
    for place, each in enumerate(found["codes"]):
        assert each["trained_share"] == pytest.approx(before[place])
        assert each["recent_share"] == pytest.approx(since[place])
        assert each["drift"] == pytest.approx(math.copysign(parts[place], since[place] - before[place]))
    assert max(found["codes"], key=lambda each: each["drift"])["code"] == code
