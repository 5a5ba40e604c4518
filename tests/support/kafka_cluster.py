"""A Kafka cluster for tests: librdkafka's own mock of the brokers' protocol, which lives in a producer."""

from __future__ import annotations

from confluent_kafka import Consumer, Producer, TopicPartition


class KafkaCluster:
    """A cluster of one broker. Topics begin with their first message, and have four partitions.

    Attributes:
        brokers: Its address, for clients of any process.
    """

    def __init__(self) -> None:
        self._producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock"})
        found = self._producer.list_topics(timeout=30).brokers.values()
        self.brokers = ",".join(f"{broker.host}:{broker.port}" for broker in found)

    def send(self, topic: str, *values: bytes, partition: int = 0, traceparent: str = "") -> None:
        """Write messages, and return once the cluster has them."""
        headers = [("traceparent", traceparent.encode())] if traceparent else []
        for value in values:
            self._producer.produce(topic, value, partition=partition, headers=headers)
        assert self._producer.flush(30) == 0

    def committed(self, topic: str, group: str, partition: int = 0) -> int:
        """Return the offset that a group goes on at; negative if it has committed none."""
        reader = Consumer({"bootstrap.servers": self.brokers, "group.id": group})
        try:
            [found] = reader.committed([TopicPartition(topic, partition)], timeout=30)
            return int(found.offset)
        finally:
            reader.close()
