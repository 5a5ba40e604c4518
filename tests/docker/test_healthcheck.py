"""The health check of the containers: it passes a ready service, and says why another one is not."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.compose_files import ROOT, SERVICES, final_stage


class Answering(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        body = b"ready" if self.path == "/health/ready" else b"wrong path"
        self.send_response(self.status if self.path == "/health/ready" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def listening(status: int) -> Iterator[int]:
    handler = type("Handler", (Answering,), {"status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def check_health(port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    proxies = {"http_proxy": "http://127.0.0.1:9", "ETEGREC_PORT": str(port)}
    program = ROOT / "docker" / "healthcheck.py"
    return subprocess.run(
        [sys.executable, program, *arguments], env=proxies, capture_output=True, text=True, check=False
    )


def test_the_health_check_is_the_file_in_the_image() -> None:
    _, _, path = SERVICES["service"]["healthcheck"]["test"]
    copied = [each.rest.split() for each in final_stage("service") if each.word == "COPY"]
    assert any("docker/healthcheck.py" in each and each[-1] == f"{path.rpartition('/')[0]}/" for each in copied)


def test_the_health_check_passes_a_ready_service() -> None:
    with listening(200) as port:
        done = check_health(port)
        other = check_health(9, str(port), "/health")
    assert (done.returncode, done.stderr) == (0, "")
    assert (other.returncode, other.stderr.strip()) == (1, "404: wrong path")


def test_the_health_check_says_why_a_service_is_not_ready() -> None:
    with listening(503) as port:
        done = check_health(port)
    assert (done.returncode, done.stderr.strip()) == (1, "503: ready")
    gone = check_health(port)
    assert gone.returncode == 1
    assert gone.stderr.startswith("no answer: ")
