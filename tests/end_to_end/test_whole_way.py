"""The whole way: a text file, answers of a running service, and the next model, with real processes and real data."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from model_store.bundle.registry import ModelStore
from tests.support.redis_server import RedisServer
from tests.support.tiny import ITEMS, OVERRIDES, write_cycle
from training.config import load_config
from training.loop.progress import SilentProgress
from training.retraining.retrain import Retrainer

PATIENCE_S = 120


@contextmanager
def service(store: Path, redis_url: str | None) -> Iterator[httpx.Client]:
    """A real ``etegrec-serve`` on ONNX Runtime; it must end with exit code 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "ETEGREC_STORE": str(store), "ETEGREC_RELOAD_S": "0.2", "ETEGREC_THREADS": "1"}
    environment |= {"ETEGREC_SHUTDOWN_DELAY_S": "0", "ETEGREC_DEADLINE_MS": "60000"}
    environment |= {"ETEGREC_REDIS_URL": redis_url} if redis_url else {}
    process = subprocess.Popen([sys.executable, "-m", "service", "--port", str(port)], env=environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_for(lambda: is_alive(client))
            yield client
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()


def is_alive(client: httpx.Client) -> bool:
    try:
        return client.get("/health/live").is_success
    except httpx.TransportError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize("live", ["embedded", "redis"])
def test_train_serve_record_retrain_and_swap(live: str, tmp_path: Path, redis_server: RedisServer) -> None:
    redis_url = redis_server.url if live == "redis" else None
    data, models = write_cycle(tmp_path / "cycle.txt"), tmp_path / "models"
    source = redis_url or models / "events"
    trainer = Retrainer(
        str(data), load_config("demo", OVERRIDES), ModelStore(models), source, tmp_path / "work", SilentProgress()
    )
    with service(models, redis_url) as client:
        assert client.get("/health/ready").status_code == 503
        first = trainer.run_once().version
        wait_for(lambda: client.get("/health/ready").is_success)
        assert client.get("/model").json()["version"] == first

        history = [f"i{step}" for step in range(4, 9)]
        answer = client.post("/recommend", json={"history": history, "k": 5}).json()
        assert answer["served_by"] == "model"
        assert answer["model_version"] == first
        assert "i9" in [item["item_id"] for item in answer["items"]]
        assert not set(history) & {item["item_id"] for item in answer["items"]}
        assert client.post("/recommend", json={}).json()["served_by"] == "popular"

        # a user of the training data needs no event to be known
        wait_for(lambda: client.get("/users/u1").json()["count"] > 0)
        assert client.post("/recommend", json={"user_id": "u1"}).json()["served_by"] == "model"

        steps = [
            {
                "event_id": f"{live}-{n}",
                "user_id": f"walker{n % 9}",
                "item_id": f"i{n // 9 % ITEMS}",
                "timestamp": n + 1,
            }
            for n in range(90)
        ]
        assert client.post("/events", json=steps).is_success
        own = client.post("/recommend", json={"user_id": "walker0", "k": 3}).json()
        assert own["served_by"] == "model"
        assert "i10" in [item["item_id"] for item in own["items"]]

        report = trainer.run_once()
        assert report.events == 90
        assert report.version is not None
        wait_for(lambda: client.get("/model").json()["version"] == report.version)
        assert client.post("/recommend", json={"history": history}).json()["model_version"] == report.version
