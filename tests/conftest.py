"""Fixtures for all tests."""

from __future__ import annotations

import gc
import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import structlog

from tests.support.redis_cluster import RedisClusterGroup, running_cluster
from tests.support.redis_server import RedisServer, running_redis

# Two workers share two cores, and on networks this small threads would spend most of their time waiting for each other.
# Read once when torch loads its runtime; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def cuda_is_available() -> bool:
    """Not asked before a test needs it: the import of torch takes seconds."""
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` need one."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not cuda_is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


def pytest_collection_finish() -> None:
    """Spare the garbage collector what stays anyway: modules and tests are millions of objects.

    A service that gives a model back collects all garbage, and most tests start one.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests (``@pytest.mark.anyio``) run on asyncio."""
    return "asyncio"


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded source of randomness."""
    return np.random.default_rng(2024)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One healthy server for the whole session. Share it by distinct prefixes; never kill or configure it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisClusterGroup]:
    """One healthy cluster of three for the whole session. Share it by distinct prefixes; never kill a node."""
    with running_cluster(tmp_path_factory.mktemp("cluster") / "nodes") as cluster:
        yield cluster


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, to be killed, paused and filled up."""
    with running_redis(tmp_path / "own-redis") as server:
        yield server


@pytest.fixture
def prefix() -> str:
    """A Redis prefix that no other test uses."""
    return f"test-{uuid.uuid4().hex}"


def plain_logs() -> None:
    """Write tracebacks without locals: to show those, which is the default, takes seconds where one is a service."""
    structlog.reset_defaults()
    *processors, _ = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*processors, plain])


plain_logs()


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """Put logging back as it was: a command that sets it up writes to a stream that closes with its test."""
    handlers = logging.root.handlers[:]
    level = logging.root.level
    yield
    plain_logs()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
