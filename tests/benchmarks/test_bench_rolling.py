"""The benchmark of rolling updates runs from end to end on a small store, and its balancer sees who is ready."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import bench_rolling
from benchmarks.balancer import Balancer, BalancerError, balancing
from benchmarks.service_process import free_port
from model_store.console import new_app
from tests.support.service_harness import live_store

needs_haproxy = pytest.mark.skipif(
    not (shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")), reason="haproxy is not installed"
)


class Readiness(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(type(self).status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(port: int) -> Iterator[type[Readiness]]:
    handler = type("Handler", (Readiness,), {})
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield handler
        finally:
            server.shutdown()
            thread.join()


@needs_haproxy
@pytest.mark.redis
def test_no_request_is_lost_while_replicas_are_replaced(tmp_path: Path) -> None:
    live_store(tmp_path)
    app = new_app("benchmark")
    app.command()(bench_rolling.main)
    quick = ["--replicas", "2", "--users", "10", "--rate", "20", "--delay-s", "1"]
    result = CliRunner().invoke(app, ["--store", str(tmp_path), "--engine", "fake", *quick])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert (found["bench"], found["replicas"], found["replaced"]) == ("rolling", 2, 2)
    assert (found["non_200"], found["wrong"], found["writes_refused"], found["writes_lost"]) == (0, 0, 0, 0)
    assert found["exit_codes"] == [0]
    assert found["requests"] > 50
    assert found["writes"] > 0


@needs_haproxy
def test_only_services_that_say_so_get_requests(tmp_path: Path) -> None:
    first, second, spare = free_port(), free_port(), free_port()
    with (
        serving(first),
        serving(second) as handler,
        balancing(tmp_path / "b", [first, second, spare]) as balancer,
    ):
        balancer.wait_for({first, second})
        handler.status = 503
        balancer.wait_for({first})
        with serving(spare):
            balancer.wait_for({first, spare})
        balancer.wait_for({first})
        assert balancer.repeated() == 0


def test_a_missing_haproxy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(BalancerError, match="haproxy is not installed"):
        Balancer(tmp_path, [1]).start()
