"""Kafka as a source: real clients against librdkafka's own cluster; offsets move only when a batch is confirmed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from model_store.errors import ConfigError, DataError
from service.ingest.kafka import KafkaSource, read_properties
from service.ingest.source import Record
from service.store import open_store
from tests.support.kafka_cluster import KafkaCluster
from tests.support.redis_server import RedisServer
from tests.support.service_process import ROOT, free_port
from tests.support.traces import CALLER

QUICK = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "500"}


@pytest.fixture(scope="module")
def cluster() -> KafkaCluster:
    return KafkaCluster()


def opened(cluster: KafkaCluster, topic: str, group: str = "g", max_bytes: int = 1000) -> KafkaSource:
    return KafkaSource(topic, cluster.brokers, group, QUICK, max_bytes)


def read(source: KafkaSource, count: int, *, confirms: bool = True) -> list[Record]:
    """Read so many messages; fail after a minute."""
    found: list[Record] = []
    end = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < end, found
        batch = source.read(count)
        assert batch is not None
        found += batch.records
        if confirms and batch.position is not None:
            source.confirm(batch)
    return found


def test_offsets_are_committed_only_for_what_was_confirmed(cluster: KafkaCluster) -> None:
    cluster.send("commits", b"0", b"1", b"2", traceparent=CALLER)
    first = opened(cluster, "commits")
    unconfirmed = read(first, 3, confirms=False)
    assert cluster.committed("commits", "g") < 0
    first.close()
    assert cluster.committed("commits", "g") < 0  # leaving commits nothing either

    second = opened(cluster, "commits")
    again = read(second, 3)
    assert again == unconfirmed
    assert [record.raw for record in again] == [b"0", b"1", b"2"]
    assert again[1].place == {"topic": "commits", "partition": 0, "offset": 1}
    assert again[1].traceparent == CALLER
    assert abs((again[1].timestamp or 0) - time.time()) < 600
    assert len({record.event_id for record in again}) == 3
    assert cluster.committed("commits", "g") == 3

    cluster.send("commits", b"3", partition=1)
    assert [record.raw for record in read(second, 1)] == [b"3"]
    assert second.lag().records == 0
    second.close()


def test_waiting_for_the_store_loses_no_message(cluster: KafkaCluster) -> None:
    cluster.send("waits", b"0")
    source = opened(cluster, "waits")
    read(source, 1)
    for _ in range(3):
        source.keep_alive()
    cluster.send("waits", b"1", b"2")
    source.keep_alive()
    assert [record.raw for record in read(source, 2)] == [b"1", b"2"]
    source.close()


def test_lag_goes_on_while_the_feed_waits_for_the_store(cluster: KafkaCluster) -> None:
    cluster.send("lags", b"0")
    source = opened(cluster, "lags")
    read(source, 1, confirms=False)
    source.keep_alive()
    assert source.lag().records == 1  # under way
    cluster.send("lags", b"1", b"2")
    source.keep_alive()
    assert source.lag().records == 3
    source.close()


def test_long_and_empty_messages_are_records_too(cluster: KafkaCluster) -> None:
    cluster.send("odd", b"x" * 5000, b"")
    source = opened(cluster, "odd")
    long, empty = read(source, 2)
    source.close()
    assert (len(long.raw), long.is_too_long) == (1000, True)
    assert (empty.raw, empty.is_too_long) == (b"", False)


def test_a_topic_that_is_not_there_is_an_error() -> None:
    empty = KafkaCluster()
    source = KafkaSource("nowhere", empty.brokers, "g", {**QUICK, "allow.auto.create.topics": "false"}, 1000)
    with pytest.raises(DataError, match="no topic 'nowhere'"):
        read(source, 1)
    source.close()


def test_wrong_properties_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.such\.property"):
        KafkaSource("t", "localhost:1", "g", {"no.such.property": "1"}, 1000)

    path = tmp_path / "client.properties"
    path.write_text("# TLS\n\nsecurity.protocol = SASL_SSL\nsasl.password=a=b\n")
    assert read_properties(path) == {"security.protocol": "SASL_SSL", "sasl.password": "a=b"}
    assert read_properties(None) == {}
    path.write_text("sasl.username=u\nenable.auto.commit=true\n")
    with pytest.raises(ConfigError, match=r"line 2 of the file of --config sets enable\.auto\.commit"):
        read_properties(path)
    path.write_text("secret")
    with pytest.raises(ConfigError, match="line 1 of the file of --config is no property") as refused:
        read_properties(path)
    assert "secret" not in str(refused.value)


@pytest.mark.redis
def test_a_process_feeds_redis_across_an_outage_and_a_restart(
    cluster: KafkaCluster, tmp_path: Path, own_redis: RedisServer
) -> None:
    cluster.send("feed", *(b'{"user_id":"u","item_id":"i%d"}' % number for number in range(3)), b'{"user":"u"}')
    config = tmp_path / "client.properties"
    config.write_text("".join(f"{name}={value}\n" for name, value in QUICK.items()))
    port = free_port()
    command = [sys.executable, "-m", "service.ingest", "kafka", "feed", "--brokers", cluster.brokers]
    command += ["--config", str(config), "--dead-letters", str(tmp_path / "dead.jsonl"), "--metrics-port", str(port)]
    environment = {**os.environ, "ETEGREC_REDIS_URL": own_redis.url, "ETEGREC_LIVE_CHECK_S": "0.2"}

    def waits_for(line: str) -> None:
        end = time.monotonic() + 90
        while True:
            try:
                text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
            except httpx.TransportError:
                text = ""
            if line in text:
                return
            assert time.monotonic() < end, text
            time.sleep(0.1)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    process = start()
    try:
        waits_for('etegrec_ingest_records_total{result="accepted"} 3.0')
        waits_for('etegrec_ingest_refused_total{field="other"} 1.0')
        own_redis.kill()
        cluster.send("feed", b'{"user_id":"u","item_id":"later"}')
        waits_for("etegrec_ingest_stalled 1.0")
        assert cluster.committed("feed", "etegrec") == 4
        own_redis.start()
        waits_for('etegrec_ingest_records_total{result="accepted"} 4.0')
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out == b"4 events recorded, 0 were known already, 1 records refused\n"

        process = start()
        cluster.send("feed", b'{"user_id":"u","item_id":"last"}')
        waits_for('etegrec_ingest_records_total{result="accepted"} 1.0')
    finally:
        process.kill()
        process.communicate()

    assert asyncio.run(history(own_redis.url, tmp_path)) == ["i0", "i1", "i2", "later", "last"]
    assert '"offset":3' in (tmp_path / "dead.jsonl").read_text()


async def history(url: str, folder: Path) -> list[str]:
    """Read the history of the user of these tests, as the service does."""
    store = open_store(url, folder)
    try:
        return (await store.history("u")).item_ids
    finally:
        await store.close()
