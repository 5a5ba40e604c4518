"""Two machines train one model under torchrun; one of them dies in mid-run, is started again, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from safetensors.numpy import load_file

from tests.support.tiny import write_cycle
from tests.support.training_forks import free_port

ASKED_FOR = "ETEGREC_TEST_MACHINES"
"""Variable that asks for this test: it takes minutes, and where cores are short a rendezvous of torch may time out."""

LIMIT_S = 900
ALONE = ["--nnodes=1", "--nproc-per-node=2"]


Agent = subprocess.Popen[str]


def agent(out: Path, data: Path, port: int, nodes: list[str], log: IO[str], **environment: str) -> Agent:
    """Start torchrun's agent of one machine, as docs/SCALE.md says."""
    rendezvous = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=test"]
    command = [sys.executable, "-m", "torch.distributed.run", *nodes, *rendezvous, "--local-addr=127.0.0.1"]
    command += ["--max-restarts=3", "-m", "tests.support.training_machine", str(out), str(data)]
    # Without the first of these a machine that comes back is never told where the others wait.
    settings = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment = os.environ | settings | environment
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, text=True, start_new_session=True)


@contextmanager
def ended(*agents: Agent) -> Iterator[None]:
    """Kill what is left of agents and their processes at the end."""
    try:
        yield
    finally:
        for each in agents:
            if each.poll() is None:
                os.killpg(each.pid, signal.SIGKILL)
                each.wait()


def losses(out: Path) -> list[dict[str, float]]:
    history: list[dict[str, float]] = json.loads((out / "finetune.json").read_text())["history"]
    return history


@pytest.mark.skipif(not os.environ.get(ASKED_FOR), reason=f"takes minutes on quiet cores; {ASKED_FOR}=1 asks for it")
def test_a_machine_that_dies_and_comes_back_changes_no_loss(tmp_path: Path) -> None:
    data = write_cycle(tmp_path / "cycle.txt", users=30)
    calm, broken = tmp_path / "calm", tmp_path / "broken"
    with (tmp_path / "log.txt").open("w+") as log:
        with free_port() as port:
            alone = agent(calm, data, port, ALONE, log)
        with ended(alone):
            assert alone.wait(LIMIT_S) == 0, (tmp_path / "log.txt").read_text()

        two = ["--nnodes=2", "--nproc-per-node=1"]
        with free_port() as port:
            first = agent(broken, data, port, two, log)
            second = agent(broken, data, port, two, log, DIES_AT="joint 1 2")
        with ended(first, second):
            assert second.wait(LIMIT_S) == -signal.SIGKILL, (tmp_path / "log.txt").read_text()
            assert not (broken / "joint.safetensors").exists()
            again = agent(broken, data, port, two, log)
            with ended(again):
                assert again.wait(LIMIT_S) == 0, (tmp_path / "log.txt").read_text()
                assert first.wait(LIMIT_S) == 0, (tmp_path / "log.txt").read_text()

    assert losses(broken) == losses(calm)
    weights, expected = load_file(broken / "finetune.safetensors"), load_file(calm / "finetune.safetensors")
    assert weights.keys() == expected.keys()
    assert [name for name in weights if weights[name].tobytes() != expected[name].tobytes()] == []


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the agents talk over the loopback interface lo")
