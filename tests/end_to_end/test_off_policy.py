"""Off-policy estimates from end to end: answers that explored, events, the log, and what another policy would earn."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from typer.testing import CliRunner, Result

from model_store.attribution.keys import AttributionKeys
from model_store.attribution.token import Answered, Attribution, sign, verify
from service.answers.exploration import distribution, draw
from service.engines.base import SearchResult
from service.schemas.ranking import Exploration
from tests.support.service_harness import live_store, serving
from training.cli import app as train_app
from training.off_policy.evaluation import evaluate
from training.off_policy.logged_answers import LoggedAnswer
from training.off_policy.other_policy import OtherAnswer
from training.retraining.drain_events import drain

pytestmark = pytest.mark.anyio

EXAMINED = np.array([0.9, 0.6, 0.4])
"""Probability that a user looks at a place."""

LOGGING = {"k": 3, "exploration": {"temperature": 8.0, "share": 1.0}}
CALM = {"k": 3, "exploration": {"temperature": 5.0, "share": 1.0}}
BEST_ONLY = {"k": 3}


@pytest.fixture(autouse=True)
def _fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETEGREC_ENGINE", "fake")
    monkeypatch.delenv("ETEGREC_REDIS_URL", raising=False)


def likes(item_id: str) -> float:
    """Probability that a user who looks at an item clicks on it."""
    return 0.1 + 0.8 * (int(item_id.removeprefix("item-")) * 7 % 10) / 10


async def visit(client: httpx.AsyncClient, number: int, dice: Random) -> None:
    """View an item, ask, be shown all items of the answer, and click on some."""
    user = f"u{number}"
    viewed = {"user_id": user, "item_id": f"item-{number % 40}", "type": "view", "timestamp": 1_760_000_000 + number}
    assert (await client.post("/events", json=viewed)).status_code == 200
    answer = (await client.post("/recommend", json={"user_id": user, "placement": "home"})).json()
    assert answer["served_by"] == "model"
    events: list[dict[str, Any]] = []
    for place, item in enumerate(answer["items"]):
        event = {"user_id": user, "item_id": item["item_id"], "attribution": answer["attribution"]}
        events.append({**event, "type": "impression"})
        if dice.random() < EXAMINED[place] * likes(item["item_id"]):
            events.append({**event, "type": "click"})
    assert (await client.post("/events", json=events)).status_code == 200


async def log_of(folder: Path, visits: int, placement: dict[str, Any], **settings: Any) -> Path:
    """Run a shop and return the folder of its drained events."""
    live_store(folder / "models")
    dice = Random(3)
    async with serving(folder / "models", **{"implicit_impressions": False, **settings}) as (client, _):
        assert (await client.put("/placements/home", json=placement)).status_code == 200
        for number in range(visits):
            await visit(client, number, dice)
    drain(folder / "models" / "events", folder / "drained")
    return folder / "drained"


def estimate(folder: Path, rules: dict[str, Any], *options: str) -> Result:
    new = folder / "new.json"
    new.write_text(json.dumps(rules))
    given = ["--events", str(folder / "drained"), "--store", str(folder / "models"), "--placement-file", str(new)]
    return CliRunner().invoke(train_app, ["off-policy", *given, "--json", *options])


async def test_what_another_placement_would_earn_is_estimated_from_the_log(tmp_path: Path) -> None:
    await log_of(tmp_path, 300, LOGGING)
    done = estimate(tmp_path, CALM, "--work", str(tmp_path / "work"), "--logged", "home")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["answers"], found["users"], found["slots"], found["left_out"]) == (300, 300, 3, {})
    assert found["effective_answers"] > 100

    others = pl.read_parquet(tmp_path / "work" / "answers" / "part-*.parquet")
    truths = []
    for items, probabilities in others.select("items", "probabilities").iter_rows():
        taste = np.array([likes(item) for item in items])
        truths.append(float(taste @ np.array(probabilities) @ EXAMINED))
    truth = float(np.mean(truths)) / 3
    for name in ("snips", "doubly_robust"):
        half = (found[name]["high"] - found[name]["low"]) / 2
        assert abs(found[name]["value"] - truth) <= 2.2 * half  # four standard errors: this is no test of luck
        assert half < 0.2

    same = json.loads(estimate(tmp_path, LOGGING).stdout)
    assert same["snips"]["value"] == pytest.approx(same["logged"]["value"], rel=0.05), "histories are those of then"
    assert same["effective_answers"] == pytest.approx(300, rel=0.02)

    refused = estimate(tmp_path, BEST_ONLY)
    assert refused.exit_code != 0
    assert "are needed" in str(refused.exception)


@pytest.mark.parametrize(
    ("placement", "settings", "reason"),
    [
        (LOGGING, {"implicit_impressions": True}, "4 answers that count as shown without impression events"),
        (BEST_ONLY, {}, "4 answers without exploration"),
    ],
)
async def test_a_log_that_cannot_tell_is_refused_with_the_reason(
    tmp_path: Path, placement: dict[str, Any], settings: dict[str, Any], reason: str
) -> None:
    await log_of(tmp_path, 4, placement, **settings)
    refused = estimate(tmp_path, CALM)
    assert refused.exit_code != 0
    assert reason in str(refused.exception)


ITEMS = 10
KEYS = AttributionKeys.of([b"a secret of the shop"], "")


def simulate(rng: np.random.Generator, number: int) -> bool:
    """Return whether the interval holds the truth in a world of its own."""
    tastes = rng.normal(-1.0, 1.0, (4, ITEMS))
    clicks = 1 / (1 + np.exp(-tastes))
    scores = {"logged": tastes + rng.normal(0, 0.7, tastes.shape), "other": tastes + rng.normal(0, 0.3, tastes.shape)}
    logging = Exploration(temperature=1.5, share=1.0)
    other = Exploration(temperature=1.0, share=1.0)
    none = np.empty(0, dtype=np.int64)

    def pool(kind: str, taste: int) -> SearchResult:
        order = np.argsort(-scores[kind][taste])
        found = scores[kind][taste][order].astype(np.float32)
        return SearchResult(order, found, found)

    alternatives = []
    for taste in range(4):
        candidates = pool("other", taste)
        ids = [f"item-{row}" for row in candidates.rows.tolist()]
        alternatives.append(OtherAnswer(ids, distribution(candidates, none, 3, other)))

    answers, others = [], []
    for user in range(300):
        taste = int(rng.integers(4))
        answer_id = (number * 1000 + user).to_bytes(6)
        found, chance = draw(pool("logged", taste), none, 3, logging, answer_id)
        ids = [f"item-{row}" for row in found.rows.tolist()]
        token = verify(
            sign(Answered(1_760_000_000, "", "v", ids, chance=chance), KEYS.signing), KEYS, 60, 1_760_000_000
        )
        assert isinstance(token, Attribution)
        looked = rng.random(3) < EXAMINED * clicks[taste, found.rows]
        rewarded = set(np.flatnonzero(looked).tolist())
        answers.append(LoggedAnswer(f"u{user}", token, dict(enumerate(ids)), rewarded, is_shown=True))
        others.append(alternatives[taste])
    truth = np.mean([_earned(clicks[taste], alternatives[taste]) for taste in range(4)])
    comparison = evaluate(answers, others, "click", {}).comparison
    return bool(comparison.doubly_robust.low <= truth <= comparison.doubly_robust.high)


def _earned(clicks: npt.NDArray[np.float64], answer: OtherAnswer) -> float:
    """Return the expected clicks of an answer."""
    rows = [int(item_id.removeprefix("item-")) for item_id in answer.items]
    return float(clicks[rows] @ answer.probabilities @ EXAMINED)


def test_intervals_hold_the_truth_in_95_of_100_worlds() -> None:
    rng = np.random.default_rng(2026)
    assert sum(simulate(rng, number) for number in range(100)) >= 93
