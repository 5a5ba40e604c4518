"""A Redis Cluster on this machine: three primaries, and a replica of one of them if a test asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from redis.crc import key_slot

from tests.support.redis_server import RedisServer, running_redis, wait_for_servers
from tests.support.service_process import free_port

PRIMARIES = 3
SLOTS = 16_384
NODE_TIMEOUT_MS = 2000
"""Milliseconds without an answer after which the nodes take one of them for dead."""


class RedisClusterGroup:
    """Nodes of a cluster. They answer for their own slots while those of others have no primary."""

    def __init__(self, nodes: list[RedisServer]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        """Address that names the three primaries."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:PRIMARIES])
        return f"redis+cluster://:{self.nodes[0].password}@{hosts}"

    def start(self) -> None:
        """Share the slots among the primaries, let further nodes follow the first, and wait until all agree."""
        for number, node in enumerate(self.nodes):
            with node.client() as client:
                if number < PRIMARIES:
                    first, last = number * SLOTS // PRIMARIES, (number + 1) * SLOTS // PRIMARIES - 1
                    client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
                first_bus = self.nodes[0].options["cluster-port"]
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, first_bus)
        wait_for_servers(lambda: all(self._knows(node, b"cluster_state:ok") for node in self.nodes))

        for node in self.nodes[PRIMARIES:]:
            with self.nodes[0].client() as first_client, node.client() as client:
                name = first_client.execute_command("CLUSTER", "MYID")
                client.execute_command("CLUSTER", "REPLICATE", name)
            wait_for_servers(lambda: self._follows(self.nodes[PRIMARIES]))

    def primary_of(self, key: str) -> RedisServer:
        """Return the primary that was given the slot of a key."""
        return self.nodes[int(key_slot(key.encode())) * PRIMARIES // SLOTS]

    def restart_first(self) -> None:
        """Start the killed first node again, and return once it follows the replica that took its place."""
        self.nodes[0].start()
        wait_for_servers(lambda: self._follows(self.nodes[0]))

    def wait_until_replicated(self) -> None:
        """Return once the replica has confirmed everything that the first node has."""
        wait_for_servers(lambda: self._offset(self.nodes[0]) == self._offset(self.nodes[PRIMARIES]))

    def _offset(self, node: RedisServer) -> int:
        with node.client() as client:
            return int(client.info("replication")["master_repl_offset"])

    def _knows(self, node: RedisServer, line: bytes) -> bool:
        known = f"cluster_known_nodes:{len(self.nodes)}".encode()
        with node.client() as client:
            told = client.execute_command("CLUSTER", "INFO")
        told = told if isinstance(told, bytes) else "\n".join(f"{k}:{v}" for k, v in told.items()).encode()
        return line in told and known in told

    def _follows(self, node: RedisServer) -> bool:
        with node.client() as client:
            return bool(client.info("replication").get("master_link_status") == "up")


@contextmanager
def running_cluster(folder: Path, replicas: int = 0) -> Iterator[RedisClusterGroup]:
    """Run three primaries and so many replicas of the first one, in a new folder."""
    folder.mkdir()
    options = {
        "cluster-enabled": "yes",
        "cluster-require-full-coverage": "no",
        "cluster-node-timeout": str(NODE_TIMEOUT_MS),
        "masterauth": "right",
        "repl-diskless-sync-delay": "0",
        "appendfsync": "everysec",
    }
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                running_redis(folder / f"node-{number}", "right", {**options, "cluster-port": str(free_port())})
            )
            for number in range(PRIMARIES + replicas)
        ]
        group = RedisClusterGroup(started)
        group.start()
        yield group
