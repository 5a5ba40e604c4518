"""Kinds of trouble with Redis, for benchmarks: how each begins and ends, on a real server behind a network of ours."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from model_store.replication.redis_keys import DEFAULT_PREFIX, ClusterKeys, Keys
from tests.support.redis_cluster import RedisClusterGroup
from tests.support.redis_server import RedisServer, running_redis
from tests.support.sentinels import SentinelGroup
from tests.support.tcp_proxy import TcpProxy

T = TypeVar("T")
KEYS = Keys()
SLOW_S = 0.5


class Network:
    """The proxy in a thread of its own, so that it goes on while this process waits."""

    def __init__(self, server_port: int) -> None:
        self.proxy = TcpProxy(server_port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self.proxy.mend())

    def cut(self) -> None:
        """Cut the service off from the server."""
        self._do(self.proxy.cut())

    def mend(self) -> None:
        """Let the service reach the server again."""
        self._do(self.proxy.mend())

    def close(self) -> None:
        """End the thread."""
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


@dataclass(frozen=True)
class Fault:
    """One kind of trouble: its begin and its end, neither of which runs on the event loop.

    Attributes:
        begin: Begins it.
        end: Ends it.
        loses_data: Whether Redis comes back without what it had.
        heals_itself: Whether service must be back without its end: the time until then counts from its begin.
    """

    begin: Callable[[], object]
    end: Callable[[], object]
    loses_data: bool = False
    heals_itself: bool = False


def faults(server: RedisServer, network: Network, users: Sequence[str], seconds: float) -> dict[str, Fault]:
    """Return all kinds of trouble with one server, by name."""

    def run(*command: str | int) -> Callable[[], object]:
        def send() -> None:
            with server.client() as client:
                client.execute_command(*command)

        return send

    def limit_memory() -> None:
        run("CONFIG", "SET", "maxmemory-policy", "noeviction")()
        run("CONFIG", "SET", "maxmemory", 1)()

    def change_password() -> None:
        with server.client() as client:
            client.config_set("requirepass", "another")
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")
            client.close()

    def restore_password() -> None:
        right = server.password
        server.password = "another"
        try:
            run("CONFIG", "SET", "requirepass", str(right))()
        finally:
            server.password = right

    def corrupt() -> None:
        with server.client() as client:
            client.mset({KEYS.history(user): b"\xff" for user in users[::2]})
            client.hset(KEYS.items, "noise", b"noise")
            for chunk in client.keys(f"{KEYS.prefix}:catalogue:*:chunk:*"):
                client.setrange(chunk, 100, b"\xff\xfe\xfd")

    def slow_down(delay_s: float) -> Callable[[], None]:
        return lambda: setattr(network.proxy, "delay_s", delay_s)

    def empty() -> None:
        server.kill()
        shutil.rmtree(server.folder / "appendonlydir")

    histories = [KEYS.history(user) for user in users]
    stopped = server.frozen()
    return {
        "killed": Fault(server.kill, server.start),
        "stopped": Fault(stopped.__enter__, lambda: stopped.__exit__(None, None, None)),
        "paused": Fault(run("CLIENT", "PAUSE", round(seconds * 1000), "ALL"), lambda: None),  # ends by itself
        "slow": Fault(slow_down(SLOW_S), slow_down(0)),
        "out_of_memory": Fault(limit_memory, run("CONFIG", "SET", "maxmemory", 0)),
        "wrong_password": Fault(change_password, restore_password),
        "corrupt": Fault(corrupt, run("DEL", *histories), loses_data=True),
        "unreachable": Fault(network.cut, network.mend),
        "restarted_empty": Fault(empty, server.start, loses_data=True),
    }


def failover(group: SentinelGroup) -> dict[str, Fault]:
    """Return the trouble that Sentinel mends: its primary is killed, and comes back as a replica."""
    return {"primary_killed": Fault(group.kill_primary, group.restart_killed, heals_itself=True)}


def node_loss(cluster: RedisClusterGroup) -> dict[str, Fault]:
    """Return the trouble that a cluster mends: the node with a replica is killed, and comes back as a replica."""
    return {"cluster_node_killed": Fault(cluster.nodes[0].kill, cluster.restart_first, heals_itself=True)}


def user_of_first_node(cluster: RedisClusterGroup) -> str:
    """Return a user whose data the first node has: others notice nothing when it is killed."""
    keys = ClusterKeys(f"{{{DEFAULT_PREFIX}}}")
    users = (f"writer-{number}" for number in count())
    return next(user for user in users if cluster.primary_of(keys.of_user(user).history(user)) is cluster.nodes[0])


@contextmanager
def redis_and_network(folder: Path) -> Iterator[tuple[RedisServer, Network]]:
    """Run a server with a password, and the network in front of it."""
    with running_redis(folder) as server:
        network = Network(server.port)
        try:
            yield server, network
        finally:
            network.close()
