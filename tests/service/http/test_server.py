"""A real process: it waits for a model, answers, and ends in order on SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.support.service_harness import live_store
from tests.support.service_process import ROOT, process, wait_for, wait_for_metric
from tests.support.shutdown_load import ShutdownLoad

SLOW = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from service import cli
    from service.app import create_app
    from service.engines.fake_engine import FakeEngine
    from service.settings import Settings

    class Slow(FakeEngine):
        def compute(self, inputs, catalogue):
            if inputs.lengths[0] == 1:  # goldens are longer
                computing = Path(sys.argv[1])
                computing.touch()
                while not computing.with_suffix(".end").exists():
                    time.sleep(0.01)
            return super().compute(inputs, catalogue)

    cli.create_app = lambda settings: create_app(settings, opener=lambda *_: Slow())
    cli.run_service(Settings())
    """
)


def test_sigterm_turns_readiness_off_finishes_requests_and_exits_0(tmp_path: Path) -> None:
    live_store(tmp_path)
    computing = tmp_path / "computing"
    with process(tmp_path, "-c", SLOW, str(computing), SHUTDOWN_DELAY_S="1.5", DEADLINE_MS="20000") as (server, url):
        wait_for(f"{url}/health/ready", 200)
        answers: list[httpx.Response] = []
        body = {"history": ["item-1"]}
        client = threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/recommend", json=body, timeout=30)))
        client.start()
        while not computing.exists():
            time.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        refused = wait_for(f"{url}/health/ready", 503)
        computing.with_suffix(".end").touch()
        client.join(30)
        _, logged = server.communicate(timeout=30)
    assert refused.json()["detail"] == "the service is shutting down"
    assert refused.headers["connection"] == "close"
    assert [answer.status_code for answer in answers] == [200]
    assert answers[0].json()["served_by"] == "model"
    assert server.returncode == 0
    assert "Traceback" not in logged


@pytest.mark.parametrize("delay_s", ["0", "0.2"])
def test_no_request_is_reset_while_the_process_ends_under_load(tmp_path: Path, delay_s: str) -> None:
    live_store(tmp_path)

    async def ask_while_it_ends(server: subprocess.Popen[str], load: ShutdownLoad) -> None:
        asking = asyncio.create_task(load.run(keeping=8, fresh=8))
        while load.outcomes["answered"] < 50:
            await asyncio.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        await asking

    with process(tmp_path, "-m", "service", SHUTDOWN_DELAY_S=delay_s) as (server, url):
        wait_for(f"{url}/health/ready", 200)
        load = ShutdownLoad(httpx.URL(url).port or 0)
        asyncio.run(ask_while_it_ends(server, load))
        server.communicate(timeout=30)
    assert load.outcomes.keys() == {"answered", "refused"}
    assert load.outcomes["refused"] == 16
    assert server.returncode == 0


def test_the_command_waits_for_a_first_model(tmp_path: Path) -> None:
    with process(tmp_path, "-m", "service", SHUTDOWN_DELAY_S="0") as (server, url):
        waiting = wait_for(f"{url}/health/ready", 503)
        assert httpx.get(f"{url}/health/live").status_code == 200
        version = live_store(tmp_path)
        assert wait_for(f"{url}/health/ready", 200).json()["model_version"] == version
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)
    assert waiting.json()["type"] == "urn:etegrec:problem:not-ready"
    assert server.returncode == 0


def test_a_client_that_leaves_takes_its_request_out_of_the_queue(tmp_path: Path) -> None:
    live_store(tmp_path)
    computing = tmp_path / "computing"
    with process(tmp_path, "-c", SLOW, str(computing), MAX_BATCH="1", DEADLINE_MS="20000") as (_, url):
        wait_for(f"{url}/health/ready", 200)
        first = threading.Thread(
            target=lambda: httpx.post(f"{url}/recommend", json={"history": ["item-1"]}, timeout=30)
        )
        first.start()
        while not computing.exists():
            time.sleep(0.01)
        for _attempt in range(2):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/recommend", json={"history": ["item-2"]}, timeout=httpx.Timeout(30, read=0.2))
        wait_for_metric(url, "etegrec_dropped_before_compute_total 1.0")  # the other one is prepared already
        computing.with_suffix(".end").touch()
        first.join(30)
        wait_for_metric(url, "etegrec_dropped_before_compute_total 2.0")


def test_a_taken_port_or_wrong_setting_ends_with_a_code(tmp_path: Path) -> None:
    with process(tmp_path, "-m", "service", BATCH_WAIT_MS="soon") as (server, _):
        _, logged = server.communicate(timeout=30)
    assert server.returncode == 3
    assert "error: ETEGREC_BATCH_WAIT_MS" in logged
    assert "fix: " in logged


def test_a_port_in_use_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        command = [sys.executable, "-m", "service", "--store", str(tmp_path), "--port", port]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 3
    assert f"cannot listen on 127.0.0.1 port {port}" in ended.stderr
    assert "fix: " in ended.stderr
