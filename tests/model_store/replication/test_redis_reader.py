"""The client of Redis for commands: it opens every kind of address, and says in our words what is wrong."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from model_store.errors import ConfigError, StoreError
from model_store.replication import redis_reader
from model_store.replication.redis_address import NO_TLS_FILES, TlsFiles
from model_store.replication.redis_reader import reading_redis
from tests.support.redis_cluster import RedisClusterGroup
from tests.support.redis_server import RedisServer
from tests.support.service_process import free_port

KEY = "etegrec-test-redis-reader"


def test_a_server_is_read_and_the_client_closed_afterwards(redis_server: RedisServer) -> None:
    with reading_redis(redis_server.url, NO_TLS_FILES) as redis:
        redis.set(KEY, "here")
        assert redis.get(KEY) == b"here"
        opened = redis.client_list()
        mine = redis.client_id()
        redis.delete(KEY)
    with redis_server.client() as other:
        assert str(mine) in {each["id"] for each in opened}
        assert str(mine) not in {each["id"] for each in other.client_list()}


def test_a_cluster_is_read_as_one(redis_cluster: RedisClusterGroup) -> None:
    with reading_redis(redis_cluster.url, NO_TLS_FILES) as redis:
        for slot in range(8):
            redis.set(f"{KEY}:{slot}", slot)
        assert [redis.get(f"{KEY}:{slot}") for slot in range(8)] == [str(slot).encode() for slot in range(8)]
        for slot in range(8):
            redis.delete(f"{KEY}:{slot}")


def test_a_server_that_is_away_is_named() -> None:
    port = free_port()
    named = pytest.raises(StoreError, match=f"127.0.0.1:{port}/0")
    with named, reading_redis(f"redis://127.0.0.1:{port}/0", NO_TLS_FILES) as redis:
        redis.get(KEY)


def test_what_fails_in_the_block_is_translated_once(redis_server: RedisServer) -> None:
    with pytest.raises(StoreError) as failed, reading_redis(redis_server.url, NO_TLS_FILES) as redis:
        redis.execute_command("NO-SUCH-COMMAND")  # type: ignore[no-untyped-call]
    assert isinstance(failed.value.__cause__, RedisError)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:6379", "redis://127.0.0.1:port/0", "redis+sentinel://127.0.0.1:26379", "redis://h/0?no=1"]
)
def test_an_address_that_is_none_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ConfigError), reading_redis(url, NO_TLS_FILES) as redis:
        pytest.fail(f"{redis} was opened")


def test_files_of_tls_need_an_address_with_tls(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("none", encoding="utf-8")
    files = TlsFiles(str(authority), "", "")
    with pytest.raises(ConfigError), reading_redis("redis://127.0.0.1:6379/0", files) as redis:
        pytest.fail(f"{redis} was opened")


@pytest.mark.parametrize("form", ["redis://127.0.0.1:{}/0", "redis+sentinel://127.0.0.1:{}/shop/0"])
def test_one_that_accepts_and_never_answers_is_given_up_at_once(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once: retraining repeats a whole pass, which is why the client itself repeats nothing."""
    monkeypatch.setattr(redis_reader, "_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0.05)
        with pytest.raises(StoreError), reading_redis(form.format(silent.getsockname()[1]), NO_TLS_FILES) as redis:
            redis.get(KEY)
        connections = 0
        with contextlib.suppress(TimeoutError):
            while True:
                silent.accept()[0].close()
                connections += 1
    assert connections == 1
