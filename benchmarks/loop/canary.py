"""Time until the real service takes a worse version back that half of the people get as a canary.

The worse version is the live one with its items mixed up, as after a join on the wrong column. People like what the
live version answers to their history, and click on it where they look. The engine is the one without a network: what is
timed is the way from clicks over the store to the rollback.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from etegrec_client import Client

from benchmarks.loop.shop import PATIENCE_MS, patient_client
from benchmarks.loop.world import examined, item_id, user_id
from benchmarks.service_process import WITHOUT_NETWORK, serving
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.catalogue.catalogue import Catalogue
from tests.support.bundles import bundle_files, description, small_catalogue

ITEMS = 200
K = 10
HISTORY = 5
SHARE = 0.5
CLICKS = 0.5
"""Probability of a click on a liked item that is looked at."""

ASKS_EVERY = 50
"""Answers after which somebody looks whether the canary was rolled back."""


def roll_back_worse(folder: Path, people: int, limit_s: float, seed: int) -> dict[str, Any]:
    """Return the seconds from the first answer of the worse version until nobody gets it, and what gave it away.

    Args:
        folder: Empty folder for models, events and the log.
        people: Number of people.
        limit_s: Seconds after which the attempt ends; the time is then null.
        seed: Source of what people do.
    """
    rng = np.random.default_rng(seed)
    models = folder / "models"
    store = ModelStore(models, namespace="")
    catalogue = small_catalogue(items=ITEMS)
    store.promote(publish(store, bundle_files(0, catalogue), description()))
    worse = publish(store, bundle_files(0, mix_up(catalogue)), description())

    rows = [rng.choice(ITEMS, HISTORY, replace=False).tolist() for _ in range(people)]
    histories: list[list[str | int]] = [[item_id(row) for row in each] for each in rows]
    with (
        serving(models, **WITHOUT_NETWORK, deadline_ms=PATIENCE_MS, reload_s=1, log_level="error") as service,
        patient_client(service.port) as client,
    ):
        likes = [{each["item_id"] for each in client.recommend(history=each, k=K)["items"]} for each in histories]
        store.set_alias("candidate", worse, SHARE)
        return _watch(client, worse, histories, likes, rng, limit_s)


def _watch(
    client: Client,
    worse: str,
    histories: Sequence[list[str | int]],
    likes: Sequence[set[str]],
    rng: np.random.Generator,
    limit_s: float,
) -> dict[str, Any]:
    began: float | None = None
    started = time.monotonic()
    answers = 0
    while time.monotonic() - started < limit_s:
        user = int(rng.integers(len(histories)))
        answer = client.recommend(user_id=user_id(user), history=histories[user], k=K)
        answers += 1
        if began is None and answer["model_version"] == worse:
            began = time.monotonic()

        looked_at = rng.random(len(answer["items"])) < CLICKS * examined(len(answer["items"]))
        shown = [each["item_id"] for each, is_seen in zip(answer["items"], looked_at, strict=True) if is_seen]
        clicked = [item for item in shown if item in likes[user]]
        if clicked:
            client.record_events(
                {"user_id": user_id(user), "item_id": item, "type": "click", "attribution": answer["attribution"]}
                for item in clicked
            )

        if began is not None and answers % ASKS_EVERY == 0 and (ended := client.get_models()["rolled_back"]):
            seconds = round(time.monotonic() - began, 1)
            return {"worse_rolled_back_s": seconds, "answers": answers, "reason": ended[0]["reason"]}
    return {
        "worse_rolled_back_s": None,
        "answers": answers,
        "reason": f"not rolled back within {limit_s:g} s: {client.get_models()}",
    }


def mix_up(catalogue: Catalogue) -> Catalogue:
    """Return a catalogue in which each item stands where another one stood."""
    half = len(catalogue) // 2
    return replace(catalogue, item_ids=[*catalogue.item_ids[half:], *catalogue.item_ids[:half]])
