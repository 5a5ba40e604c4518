"""HAProxy before several services of this machine, as a load balancer that asks each whether it is ready."""

from __future__ import annotations

import csv
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.service_process import free_port

START_S = 30.0
CHECK_MS = 200
"""How often a service is asked whether it is ready; the first 503 takes it out, the first 200 brings it in."""

CONFIGURATION = """
global
    maxconn 4096
    stats socket {socket} mode 600

defaults
    mode http
    maxconn 4096
    timeout connect 1s
    timeout client 30s
    timeout server 30s
    # A connection that was refused, or closed before a byte of an answer came: the request was not read, another
    # replica gets it.
    retries 3
    option redispatch 1
    retry-on {retry_on}

frontend clients
    bind 127.0.0.1:{port}
    default_backend replicas

backend replicas
    balance leastconn
    option httpchk
    http-check send meth GET uri /health/ready ver HTTP/1.1 hdr Host balancer
    default-server check inter {check_ms}ms fall 1 rise 1
{servers}
"""


class BalancerError(RuntimeError):
    """HAProxy is missing, or does not start."""


class Balancer:
    """One HAProxy process.

    Args:
        folder: Where its configuration, its socket and its log lie; its path must be short.
        ports: Ports on which services are, or will be.
        repeats: Whether a request goes to another service if the first closed the connection without an answer.
    """

    def __init__(self, folder: Path, ports: Sequence[int], *, repeats: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._folder = folder
        self._socket = folder / "admin"
        self._process: subprocess.Popen[bytes] | None = None

        servers = "\n".join(f"    server {port} 127.0.0.1:{port}" for port in ports)
        written = CONFIGURATION.format(
            socket=self._socket,
            port=self.port,
            retry_on="conn-failure empty-response" if repeats else "conn-failure",
            check_ms=CHECK_MS,
            servers=servers,
        )
        (folder / "haproxy.cfg").write_text(written)

    def start(self) -> None:
        """Start the process and return once it accepts connections.

        Raises:
            BalancerError: HAProxy is not installed, or does not start.
        """
        program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
        if program is None:
            raise BalancerError("haproxy is not installed: `apt-get install haproxy`, or your system's package")

        with (self._folder / "log").open("ab") as log:
            command = [program, "-db", "-f", str(self._folder / "haproxy.cfg")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + START_S
        while time.monotonic() < end and self._process.poll() is None:
            if self._socket.exists():
                return
            time.sleep(0.02)
        raise BalancerError("haproxy does not start:\n" + (self._folder / "log").read_text()[-2000:])

    def stop(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def ready(self) -> set[int]:
        """Return the ports of the services that get requests."""
        return {int(row["svname"]) for row in self._services() if row["status"].startswith("UP")}

    def wait_for(self, ports: set[int]) -> None:
        """Wait until exactly these services get requests.

        Raises:
            BalancerError: It takes too long.
        """
        end = time.monotonic() + START_S
        while (ready := self.ready()) != ports:
            if time.monotonic() > end:
                raise BalancerError(f"the balancer sends requests to {sorted(ready)}, not to {sorted(ports)}")
            time.sleep(0.02)

    def repeated(self) -> int:
        """Return how often a request was sent again, to the same service or to another."""
        return sum(int(row["wretr"]) + int(row["wredis"]) for row in self._services())

    def _services(self) -> list[dict[str, str]]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            connection.sendall(b"show stat\n")
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        rows = csv.DictReader(answer.decode().removeprefix("# ").splitlines())
        return [row for row in rows if row["svname"] not in ("FRONTEND", "BACKEND")]


@contextmanager
def balancing(folder: Path, ports: Sequence[int], *, repeats: bool = True) -> Iterator[Balancer]:
    """Run a balancer before these ports."""
    balancer = Balancer(folder, ports, repeats=repeats)
    try:
        balancer.start()
        yield balancer
    finally:
        balancer.stop()
