"""Popular and trending items: counts as weights, the fallback that uses them, and reading them from a store."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from model_store.catalogue.catalogue import Catalogue
from model_store.events.event import Event
from service.answers.popular import find_popular
from service.answers.trending import TrendTracker, event_counts, half_lives_s_of, training_share
from service.ranking.filters import RuleCompiler, RuleKey
from service.settings import Settings
from service.store.embedded_store import EmbeddedStore
from service.telemetry.telemetry import Telemetry
from tests.support.bundles import small_catalogue

NOTHING = np.empty(0, dtype=np.int64)


@pytest.fixture
def catalogue() -> Catalogue:
    return small_catalogue(5)


def test_weights_are_counts_on_top_of_training(catalogue: Catalogue) -> None:
    events = event_counts(catalogue, {"item-3": 40.0, "unknown": 99.0, "item-8": 2.0, "item-9": 1e-9}, 100)
    assert sorted(events.rows.tolist()) == [3, 8]
    assert events.total == pytest.approx(142)
    share = training_share(catalogue, np.arange(40))
    assert share.sum() == pytest.approx(1)
    assert events.weight_of == pytest.approx({3: 40 + 100 * share[3], 8: 2 + 100 * share[8]})
    assert events.count_of == {3: 40.0, 8: 2.0}
    assert (np.diff(events.weights) <= 0).all()


def test_the_fallback_ranks_by_weight_whatever_the_rule(catalogue: Catalogue, rng: np.random.Generator) -> None:
    counts = {f"item-{row}": float(rng.exponential(20)) for row in rng.choice(40, 12, replace=False)}
    rules = RuleCompiler(catalogue, entries=4)
    share = training_share(catalogue, np.arange(40))
    for prior in (0.5, 50.0, 5000.0):
        events = event_counts(catalogue, counts, prior)
        weights = prior * share + np.array([counts.get(item_id, 0.0) for item_id in catalogue.item_ids])
        rule = rules.compile(RuleKey(categories=frozenset(["category-1"])))
        found = find_popular(catalogue, rule, np.array([4, 7]), 8, events=events)
        allowed = [row for row in range(40) if row % 3 == 1 and row not in (4, 7)]
        best = sorted(allowed, key=lambda row: -weights[row])[:8]
        assert weights[found.rows] == pytest.approx(weights[best])
        assert np.exp(found.log_prob) == pytest.approx(weights[found.rows] / weights.sum(), rel=1e-5)


def test_without_events_the_fallback_is_training_popularity(catalogue: Catalogue) -> None:
    everything = RuleCompiler(catalogue, entries=1).everything
    plain = find_popular(catalogue, everything, NOTHING, 10)
    without = find_popular(catalogue, everything, NOTHING, 10, events=event_counts(catalogue, {}, 1000))
    assert plain.rows.tolist() == without.rows.tolist()
    np.testing.assert_allclose(plain.log_prob, without.log_prob, rtol=1e-6)


def test_trending_holds_items_with_events_only(catalogue: Catalogue) -> None:
    events = event_counts(catalogue, {"item-3": 4.0, "item-8": 12.0}, 0)
    found = find_popular(catalogue, RuleCompiler(catalogue, entries=1).everything, NOTHING, 10, events=events)
    assert found.rows.tolist() == [8, 3]
    none = find_popular(
        catalogue, RuleCompiler(catalogue, 1).everything, NOTHING, 10, events=event_counts(catalogue, {}, 0)
    )
    assert not len(none.rows)


@pytest.mark.anyio
async def test_counts_are_read_from_the_store_with_what_waits(tmp_path: Path, catalogue: Catalogue) -> None:
    settings, telemetry = Settings(trends_s=0.01), Telemetry()
    store = EmbeddedStore(tmp_path, half_lives_s=half_lives_s_of(settings))
    trends = TrendTracker(store, settings, telemetry)
    watching = asyncio.create_task(trends.watch())
    now = int(time.time())
    events = [Event(event_id=str(n), user_id="u", item_id="item-5", timestamp=now) for n in range(3)]
    events.append(Event(event_id="old", user_id="u", item_id="item-6", timestamp=now - 30 * 86_400))
    await store.record(events)
    async with asyncio.timeout(30):
        while not len((await trends.popular_counts(catalogue)).rows):
            await asyncio.sleep(0.01)
    long, short = await trends.popular_counts(catalogue), await trends.trending_counts(catalogue)
    assert long.count_of == pytest.approx({5: 3, 6: 0.5}, rel=1e-2)
    assert short.count_of == pytest.approx({5: 3}, rel=1e-2)  # 2^-30 of an event is none
    assert (await trends.trending_counts(catalogue)).prior_events == 0
    assert telemetry.registry.get_sample_value("etegrec_event_stream_length") == 4
    watching.cancel()
    await store.close()


@pytest.mark.anyio
async def test_while_the_store_is_away_the_last_counts_stay(tmp_path: Path, catalogue: Catalogue) -> None:
    settings = Settings(trends_s=0.01)
    store = EmbeddedStore(tmp_path, half_lives_s=half_lives_s_of(settings))
    trends = TrendTracker(store, settings, Telemetry())
    await store.record([Event(event_id="1", user_id="u", item_id="item-5", timestamp=int(time.time()))])
    await trends.read()
    await store.close()
    watching = asyncio.create_task(trends.watch())
    await asyncio.sleep(0.05)
    assert not watching.done()
    assert (await trends.trending_counts(catalogue)).rows.tolist() == [5]
    watching.cancel()
