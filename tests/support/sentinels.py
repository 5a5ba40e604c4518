"""Redis behind Sentinel: three sentinels that watch a primary and its replica, all on this machine."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.redis_server import START_S, RedisServer, find_server, running_redis, wait_for_servers
from tests.support.service_process import free_port

SERVICE = "shop"
DOWN_AFTER_MS = 1000
"""Milliseconds without an answer after which a sentinel takes the primary for dead."""

_QUORUM = 2


class SentinelGroup:
    """Two servers and three sentinels. The primary can be killed, and comes back as a replica."""

    def __init__(self, folder: Path, servers: tuple[RedisServer, RedisServer]) -> None:
        self.servers = servers
        self._folder = folder
        self._ports: list[int] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._killed: RedisServer | None = None

    @property
    def url(self) -> str:
        """Address that names all sentinels."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        return f"redis+sentinel://:{self.servers[0].password}@{hosts}/{SERVICE}/0"

    @property
    def primary(self) -> RedisServer:
        """The server that the sentinels name."""
        with _ask(self._ports[0]) as sentinel:
            _, port = sentinel.sentinel_get_master_addr_by_name(SERVICE)
        return next(server for server in self.servers if server.port == port)

    def start(self) -> None:
        """Let the second server follow the first, start the sentinels, and return once each knows all others."""
        first, second = self.servers
        with second.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", first.port)
        for number in range(3):
            self._start_sentinel(number, first)
        wait_for_servers(lambda: all(self._knows_all(port) for port in self._ports))

    def kill_primary(self) -> None:
        """Kill the primary, as a crash would."""
        self._killed = self.primary
        self._killed.kill()

    def restart_killed(self) -> None:
        """Start the killed server again, and return once it follows the one that took its place."""
        assert self._killed is not None
        self._killed.start()
        wait_for_servers(self._follows)

    def kill_first_sentinel(self) -> None:
        """Kill the sentinel that the address names first."""
        self._processes[0].kill()
        self._processes[0].wait(START_S)

    def wait_until_replicated(self) -> None:
        """Return once the replica has confirmed everything that was written before."""
        with self.primary.client() as client:
            assert client.wait(1, START_S * 1000) == 1

    def stop(self) -> None:
        """Kill the sentinels."""
        for process in self._processes:
            process.kill()
            process.wait(START_S)

    def _start_sentinel(self, number: int, primary: RedisServer) -> None:
        folder = self._folder / f"sentinel-{number}"
        folder.mkdir()
        port = free_port()
        watched = [
            f"monitor {SERVICE} 127.0.0.1 {primary.port} {_QUORUM}",
            f"auth-pass {SERVICE} {primary.password}",
            f"down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"failover-timeout {SERVICE} 10000",
        ]
        lines = [f"port {port}", "bind 127.0.0.1", f"dir {folder}", *(f"sentinel {each}" for each in watched)]
        (folder / "sentinel.conf").write_text("\n".join(lines) + "\n")
        with (folder / "log").open("wb") as log:
            command = [str(find_server()), str(folder / "sentinel.conf"), "--sentinel"]
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        self._ports.append(port)

    def _knows_all(self, port: int) -> bool:
        with _ask(port) as sentinel:
            state = sentinel.sentinel_master(SERVICE)
        return (state["num-other-sentinels"], state["num-slaves"], state["flags"]) == (2, 1, "master")

    def _follows(self) -> bool:
        assert self._killed is not None
        with self._killed.client() as client:
            state = client.info("replication")
        return (state["role"], state.get("master_link_status")) == ("slave", "up")


@contextmanager
def running_sentinels(folder: Path) -> Iterator[SentinelGroup]:
    """Run a primary, a replica and three sentinels in a new folder."""
    folder.mkdir()
    options = {"masterauth": "right", "repl-diskless-sync-delay": "0"}
    with (
        running_redis(folder / "a", "right", options) as first,
        running_redis(folder / "b", "right", options) as second,
    ):
        group = SentinelGroup(folder, (first, second))
        try:
            group.start()
            yield group
        finally:
            group.stop()


def _ask(port: int) -> Redis:
    return Redis(port=port, protocol=2, decode_responses=True, socket_timeout=START_S, retry=Retry(NoBackoff(), 0))
