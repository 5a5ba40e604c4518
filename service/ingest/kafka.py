"""Kafka as a source: a member of a consumer group, which commits offsets only once the store holds the events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from model_store.errors import ConfigError, DataError
from service.ingest.source import WAIT_S, Batch, Lag, Record, Source, made_id

try:
    from confluent_kafka import OFFSET_INVALID, TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, KafkaException
    from confluent_kafka import TopicPartition as Partition
except ModuleNotFoundError as _missing:
    raise ConfigError(
        "reading Kafka needs confluent-kafka, which is not installed", "pip install 'etegrec[ingest]'"
    ) from _missing

log = structlog.get_logger()

OURS = ("bootstrap.servers", "group.id", "enable.auto.commit", "enable.auto.offset.store")
"""Properties of the client that its configuration file may not set: options, or what makes commits safe."""

COMMIT_ATTEMPTS = 3

ASK_S = 1.0
"""Seconds that a question about a partition may take."""


class KafkaSource(Source):
    """A topic, read as a member of a consumer group. Members share its partitions.

    Args:
        topic: The topic.
        brokers: Addresses of some brokers, comma-separated.
        group: The consumer group. One that is new begins with the oldest message.
        properties: Further properties of librdkafka, such as of TLS and SASL.
        max_bytes: Longest message.

    Raises:
        ConfigError: librdkafka refuses a property.
    """

    def __init__(self, topic: str, brokers: str, group: str, properties: Mapping[str, str], max_bytes: int) -> None:
        self._topic = topic
        self._max_bytes = max_bytes
        self._held: list[Any] = []  # messages that came while the feed waited
        self._unconfirmed = 0  # messages of the batch that is under way
        self._is_paused = False
        self._fatal: KafkaError | None = None
        config: dict[str, Any] = {
            "auto.offset.reset": "earliest",
            **properties,
            "bootstrap.servers": brokers,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "error_cb": self._note_error,
        }
        try:
            self._consumer = Consumer(config)
            self._consumer.subscribe([topic])
        except KafkaException as refused:
            raise ConfigError(
                f"Kafka's client refuses its configuration: {refused.args[0].str()}", "correct --brokers or --config"
            ) from refused

    def read(self, limit: int) -> Batch | None:
        """Consume messages; broken connections are repaired by the client meanwhile.

        Raises:
            ConfigError: The brokers refuse the credentials.
            DataError: There is no such topic.
        """
        if self._is_paused:
            self._consumer.resume(self._consumer.assignment())
            self._is_paused = False

        messages = self._held or self._consumer.consume(limit, WAIT_S)
        self._held = []
        self._raise_fatal()

        records: list[Record] = []
        position: dict[int, int] = {}
        for message in messages:
            if message.error() is not None:
                self._take_error(message.error())
                continue
            records.append(self._record(message))
            position[message.partition()] = message.offset() + 1
        self._unconfirmed = len(records)
        return Batch(records, position or None)

    def confirm(self, batch: Batch) -> None:
        """Commit the offsets behind a batch. If the group has given the partitions to others, they read it again."""
        self._unconfirmed = 0
        offsets = [Partition(self._topic, partition, offset) for partition, offset in batch.position.items()]
        for attempt in range(1, COMMIT_ATTEMPTS + 1):
            try:
                self._consumer.commit(offsets=offsets, asynchronous=False)
                return
            except KafkaException as failure:
                error = failure.args[0]
                is_last = attempt == COMMIT_ATTEMPTS or not error.retriable()
                log.warning("offsets_not_committed", cause=error.str(), is_repeated=not is_last)
                if is_last:  # recorded and not committed: whoever reads these messages again finds duplicates
                    return
                time.sleep(WAIT_S)

    def keep_alive(self) -> None:
        """Poll without consuming, so that the group does not take this member for dead."""
        self._consumer.pause(self._consumer.assignment())
        self._is_paused = True
        message = self._consumer.poll(0)
        if message is not None:  # of a partition that was assigned just now
            self._held.append(message)

    def lag(self) -> Lag:
        """Count the messages behind the position, and those under way.

        The client knows the ends of partitions that it consumes. Those that are paused it must ask the brokers for.
        """
        waiting = self._unconfirmed + len(self._held)
        asks = self._is_paused
        for place in self._consumer.position(self._consumer.assignment()):
            high = self._end(place) if asks else None
            if high is None:
                asks = False  # the brokers do not answer: each question would take as long
                _, high = self._consumer.get_watermark_offsets(place, cached=True)
            if high != OFFSET_INVALID and place.offset >= 0:
                waiting += max(0, high - place.offset)
        return Lag(records=waiting)

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _end(self, place: Partition) -> int | None:
        """Ask the brokers for the end of a partition; ``None`` if they do not answer."""
        try:
            found: tuple[int, int] | None = self._consumer.get_watermark_offsets(place, ASK_S)
        except KafkaException:
            return None
        return None if found is None else found[1]

    def _record(self, message: Any) -> Record:
        kind, milliseconds = message.timestamp()
        value = message.value() or b""  # a message without a value is a deletion, which no event is
        place = (message.topic(), message.partition(), message.offset())
        return Record(
            raw=value[: self._max_bytes],
            place=dict(zip(("topic", "partition", "offset"), place, strict=True)),
            event_id=made_id(*place, milliseconds),
            timestamp=None if kind == TIMESTAMP_NOT_AVAILABLE else milliseconds // 1000,
            traceparent=_header(message, "traceparent"),
            is_too_long=len(value) > self._max_bytes,
        )

    def _note_error(self, error: KafkaError) -> None:
        """Take an error that belongs to no message; the client repairs most by itself."""
        log.warning("kafka_error", cause=error.str())
        if error.fatal() or error.code() in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
            self._fatal = error

    def _raise_fatal(self) -> None:
        if self._fatal is not None:
            raise ConfigError(
                f"Kafka refuses this client: {self._fatal.str()}", "check the credentials in the file of --config"
            )

    def _take_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise DataError(f"Kafka has no topic {self._topic!r}", "check the name, or create it first")
        if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise ConfigError(f"Kafka does not let this client read {self._topic!r}", "give its user the right to read")
        self._note_error(error)


def read_properties(path: Path | None) -> dict[str, str]:
    """Read a file of properties, ``name=value`` a line; empty lines and those with ``#`` in front do not count.

    Raises:
        ConfigError: A line is none, or sets one of :data:`OURS`.
    """
    found: dict[str, str] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path is not None else []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, sign, value = (part.strip() for part in line.partition("="))
        if not sign or not name:
            raise ConfigError(f"line {number} of the file of --config is no property", "write name=value")
        if name in OURS:
            raise ConfigError(
                f"line {number} of the file of --config sets {name}, which etegrec-ingest sets itself",
                "remove it; --brokers and --group name brokers and group",
            )
        found[name] = value
    return found


def _header(message: Any, name: str) -> str:
    found = next((value for key, value in message.headers() or () if key == name), None)
    return found.decode(errors="replace") if found else ""
