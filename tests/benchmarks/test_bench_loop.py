"""The simulated shop: what people do follows from the world, and every part of the benchmark gives its figures."""

from __future__ import annotations

import json
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from etegrec_client import Client
from typer.testing import CliRunner

from benchmarks import bench_loop
from benchmarks.bench_loop import click_through, summary
from benchmarks.loop.canary import roll_back_worse
from benchmarks.loop.cpu_cost import cpu_share_more
from benchmarks.loop.days import BETTER, EQUAL, run_days, set_up
from benchmarks.loop.nights import Nights
from benchmarks.loop.null_experiments import InProcessExperiment, false_alarms
from benchmarks.loop.off_policy_draws import coverage
from benchmarks.loop.parts import Parts
from benchmarks.loop.shop import patient_client
from benchmarks.loop.world import World, examined
from benchmarks.service_process import serving
from model_store.attribution.keys import AttributionKeys
from model_store.attribution.token import MAX_CHARACTERS
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.console import new_app
from tests.support.bundles import NOON, bundle_files, description, small_catalogue
from tests.support.tiny import CONTENT, OVERRIDES

ROOT = Path(__file__).parents[2]
WORLD = World.make(users=400, items=40, themes=3, shelves=2, seed=1)
LIKES = np.stack([WORLD.likes(user) for user in range(WORLD.users)])

FAVOURITES = 10
PLAIN = World.make(users=400, items=200, themes=3, shelves=2, seed=1)
PLAIN = replace(PLAIN, visits_a_day=1.2, appeal=np.where(np.arange(200) < FAVOURITES, 8.0, -8.0))
"""World in which everybody likes the same ten items and nothing else: a few people show what is better."""


def clicks(answers: list[list[int]]) -> float:
    """Return the mean number of clicks of all people, each with one answer."""
    rng = np.random.default_rng(3)
    deeds = [WORLD.visit(user, answer, 0, rng) for user, answer in enumerate(answers)]
    return sum(map(len, deeds)) / len(deeds)


def publish_plain(folder: Path) -> None:
    """Publish and promote a small bundle with the items of the plain world."""
    store = ModelStore(folder)
    store.promote(publish(store, bundle_files(0, small_catalogue(items=PLAIN.items)), description(), NOON))


def test_people_click_on_what_they_like_and_where_they_look() -> None:
    best = [np.argsort(-each)[:5].tolist() for each in LIKES]
    worst = [np.argsort(each)[:5].tolist() for each in LIKES]
    turned = [each[::-1] for each in best]
    assert clicks(best) > clicks(turned) > 2 * clicks(worst)
    expected = float((np.sort(LIKES, axis=1)[:, ::-1][:, :5] * examined(5)).sum(axis=1).mean())
    assert clicks(best) == pytest.approx(expected, rel=0.15)


def test_nobody_buys_more_than_the_budget() -> None:
    rng = np.random.default_rng(0)
    answer = list(range(40))
    bought = [sum(deed.type == "purchase" for deed in WORLD.visit(user, answer, 1, rng)) for user in range(100)]
    assert set(bought) == {0, 1}
    assert all(deed.type == "click" for user in range(100) for deed in WORLD.visit(user, answer, 0, rng))


def test_histories_follow_tastes_and_the_world_is_drawn_again_alike() -> None:
    log = WORLD.history(3_000, seed=2)
    assert log["timestamp"].is_sorted()
    assert log.equals(World.make(users=400, items=40, themes=3, shelves=2, seed=1).history(3_000, seed=2))
    liked = [WORLD.taste[int(user[5:]), WORLD.shelf[int(item[5:])]] for user, item in log.select("user", "item").rows()]
    assert np.mean(liked) > 2 / WORLD.taste.shape[1]
    chosen = np.bincount([int(item[5:]) for item in log["item"]], minlength=WORLD.items)
    assert (
        np.corrcoef(np.log1p(chosen), WORLD.past_appeal)[0, 1]
        > 0.5
        > np.corrcoef(WORLD.appeal, WORLD.past_appeal)[0, 1]
    )
    assert WORLD.table()["categories"][0] == f"theme {WORLD.theme[0]}|shelf {WORLD.shelf[0]}"


def test_days_over_http_find_the_better_variant_and_nothing_else(tmp_path: Path) -> None:
    publish_plain(tmp_path / "models")
    settings = {"engine": "fake", "load_trial": "false", "result_cache_entries": 0, "log_level": "warning"}
    settings["popular_prior_events"] = 1e12  # what is bought must not become popular in both variants
    night = {"kind": "usual", "promoted": False, "verdict": None, "reason": "nobody trains here"}
    with (
        serving(tmp_path / "models", **settings) as service,
        Client(f"http://127.0.0.1:{service.port}") as client,
    ):
        set_up(client, PLAIN, FAVOURITES)
        run = run_days(client, PLAIN, 1, float("inf"), lambda _: night, seed=4)
        reports = [client.get_experiment_report(name) for name in (BETTER, EQUAL)]
        shown = click_through(client.get_attribution()["days"])

    found = summary(run)
    assert (found["days"], found["win_found_on_day"], found["aa_over_http"]) == (1, 1, 0)
    assert found["win_found_after"] <= run.shop.answers["home"]
    assert "favourites: better than the control" in found["verdict"]  # and slower, on a machine that others load
    for report, placement in zip(reports, ("home", "aside"), strict=True):
        assert sum(each["answers"] for each in report["variants"]) == run.shop.answers[placement]
        assert report["sample_ratio"]["is_as_designed"]
    assert MAX_CHARACTERS - 4 < found["token_bytes"] <= MAX_CHARACTERS
    assert list(shown.values()) == [pytest.approx(0.1, abs=0.09)]


class Refusing(BaseHTTPRequestHandler):
    """Service whose store does not confirm for a while."""

    left = 12

    def do_POST(self) -> None:
        """Refuse, or record an event."""
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).left -= 1
        body = b'{"accepted": 1, "duplicates": 0}'
        self.send_response(503 if self.left else 200)
        for name, value in {
            "Retry-After": "0",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def test_the_shop_asks_again_while_the_service_refuses() -> None:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with patient_client(server.server_port) as client:
            assert client.record_events([{"user_id": "u", "item_id": "i"}])["accepted"] == 1
        server.shutdown()
    assert Refusing.left == 0


def test_a_night_that_mixes_up_items_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    quick = [*OVERRIDES, "tokenizer.epochs=60", "joint.epochs=9", "joint.alignment_from=8", f"content.dim={CONTENT}"]
    nights = Nights(tmp_path / "nights", WORLD, 2_000, "demo", quick, log)
    first = nights.first_model()
    assert nights.first_model() == first, "one first model is enough"

    worse = nights.mixed_up()
    assert (worse["promoted"], worse["verdict"]) == (False, "drop"), worse
    assert ModelStore(nights.models).live() == first


def test_a_canary_with_mixed_up_items_is_rolled_back_for_its_clicks(tmp_path: Path) -> None:
    found = roll_back_worse(tmp_path, people=600, limit_s=120, seed=0)
    assert found["worse_rolled_back_s"] is not None, found
    assert found["reason"].startswith("fewer users and sessions click")
    assert ModelStore(tmp_path / "models").aliases() == {}


def test_equal_variants_claim_nothing_and_unequal_ones_do() -> None:
    assert false_alarms(WORLD, runs=3, days=2, seed=1) == {"reached_goal": 0, "clicked": 0}

    likes = np.stack([PLAIN.likes(user) for user in range(PLAIN.users)])
    keys = AttributionKeys.of([b"only for this test"], "")
    unequal = InProcessExperiment(PLAIN, "unequal@1", likes, keys, np.random.default_rng(1), pools=(1, 20))
    unequal.run_day(0)
    assert "reached_goal" in unequal.claims()
    [goal] = [each for each in unequal.report().comparisons if each.outcome == "reached_goal"]
    assert goal.verdict == "higher"
    assert unequal.report().sample_ratio.is_as_designed


def test_intervals_of_off_policy_estimates_hold_the_truth() -> None:
    found = coverage(WORLD, draws=60, people=400, seed=2)
    assert found.keys() == {"snips", "doubly_robust"}
    assert min(found.values()) >= 0.85, found


def test_processor_time_of_the_same_release_is_about_the_same(tmp_path: Path) -> None:
    found = cpu_share_more(tmp_path, ROOT, seconds=0.5, repeats=2)
    for ending in ("", "_alone"):
        assert found[f"before_ms{ending}"] > 0
        assert found[f"now_ms{ending}"] > 0
        least, most = found[f"spread{ending}"]
        assert least <= found[f"cpu_share_more{ending}"] <= most


def test_parts_are_kept_and_do_not_begin_when_the_time_is_up(tmp_path: Path) -> None:
    calls: list[str] = []

    def work() -> dict[str, Any]:
        calls.append("worked")
        return {"figure": len(calls)}

    assert Parts(tmp_path, {"days": 1}, float("inf")).run("one", work) == {"figure": 1}
    late = Parts(tmp_path, {"days": 1}, 0.0)
    assert late.run("one", work) == {"figure": 1}
    assert late.run("two", work) == {}
    assert late.left_out == ["two"]
    assert Parts(tmp_path, {"days": 2}, float("inf")).run("one", work) == {"figure": 2}, "other options, other figures"


def test_one_line_of_json_also_if_no_time_is_left(tmp_path: Path) -> None:
    app = new_app("benchmark")
    app.command()(bench_loop.main)
    done = CliRunner().invoke(app, ["--minutes", "0", "--aa-runs", "3", "--folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["bench"], found["aa_runs"], found["token_bytes"]) == ("loop", 3, None)
    assert found["left_out"] == ["aa", "off_policy", "canary", "days", "warm"]
