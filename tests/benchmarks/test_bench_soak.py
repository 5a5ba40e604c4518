"""The report of a soak: medians of two quarters, and what was counted."""

from __future__ import annotations

from pathlib import Path

from benchmarks.bench_soak import Soak, publish_again, report
from benchmarks.load import Reply
from benchmarks.service_process import ServiceProcess
from model_store.bundle.registry import ModelStore
from tests.support.redis_server import RedisServer
from tests.support.service_harness import live_store

FIGURES = ("memory_mb", "open_files", "redis_keys", "redis_mb", "event_ids_mb")


def soak(tmp_path: Path) -> Soak:
    """Return a soak whose service and Redis were never started, and whose time is up."""
    service = ServiceProcess(tmp_path / "models", tmp_path / "service")
    return Soak(service, RedisServer(tmp_path), ModelStore(str(tmp_path / "models")), tmp_path, end=0.0)


def test_what_grows_is_the_last_quarter_against_the_second(tmp_path: Path) -> None:
    run = soak(tmp_path)
    assert run.is_over
    rising = [99, 98, 1, 2, 3, 4, 10, 20]
    run.samples = [{"memory_mb": value, "open_files": 25} for value in rising]
    assert run.pair("memory_mb") == [1.5, 15.0]
    assert run.pair("open_files") == [25, 25]


def test_the_report_counts_failures_and_passes_of_retraining(tmp_path: Path) -> None:
    run = soak(tmp_path)
    run.samples = [dict.fromkeys(FIGURES, 7.0)]
    run.replies = [Reply(0, 200, 0.01 * number, b"") for number in range(1, 100)] + [Reply(0, 503, 9.0, b"")]
    run.exit_codes = [0, 0, 3]
    run.unfinished = 1
    found = report(run, minutes=1.0, exit_code=0)
    assert (found["requests"], found["failed"]) == (100, {"503": 1})
    assert found["p99_ms"] < 1000, "latency is that of answered requests"
    assert (found["retrained"], found["retraining_failed"], found["retraining_unfinished"]) == (2, 1, 1)
    assert [found[name] for name in FIGURES] == [[7.0, 7.0]] * len(FIGURES)


def test_there_are_two_versions_to_swap(tmp_path: Path) -> None:
    live_store(tmp_path)
    models = ModelStore(str(tmp_path))
    before = models.live()
    publish_again(models)
    assert models.live() == before
    assert len(models.versions()) == 2
    for version in models.versions():
        models.bundle(version).verify()
