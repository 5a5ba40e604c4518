"""``etegrec-train prepare`` on a Ray cluster of two nodes.

python -m tests.support.ray_preparation SOURCE OUT
"""

from __future__ import annotations

import os
import secrets
import sys
from typing import Any

from model_store.console import run
from training.cli import app

MEMORY = 80 * 1024 * 1024
"""Bytes of a node's object store; data do not travel through it."""


def main(source: str, out: str) -> int:
    """Run the command; return its exit code."""
    # As every other process of the test: with Ray's default, workers wait for idle cores.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  Ray's own spelling
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": MEMORY}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    try:
        options = ["--data", source, "--out", out, "--ray", cluster.address, "--partitions", "3"]
        return run(app, "etegrec-train", ["prepare", *options])
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
