"""``etegrec-batch recommend`` on a Ray cluster of three nodes; ``--kill`` kills one of them in mid-run.

python -m benchmarks.ray_nodes [--kill] --store MODELS --out OUT OPTIONS…
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from pathlib import Path
from typing import Any

from model_store.console import run
from service.batch.cli import app

KILLED_AFTER = 5
"""Finished shards after which the node is killed."""

MEMORY = 80 * 1024 * 1024
"""Bytes of a node's object store. Hardly any are used: shards are read and written by those who compute them."""

KILL = "--kill"


def main() -> int:
    """Run the command; return its exit code."""
    options = [option for option in sys.argv[1:] if option != KILL]
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": MEMORY}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    doomed = cluster.add_node(**node)
    cluster.add_node(**node)
    killer = threading.Thread(target=_kill, args=(cluster, doomed, Path(options[options.index("--out") + 1])))
    if KILL in sys.argv:
        killer.daemon = True
        killer.start()

    try:
        return run(app, "etegrec-batch", ["recommend", "--ray", cluster.address, *options])
    finally:
        cluster.shutdown()


def _kill(cluster: Any, node: Any, out: Path) -> None:
    manifest = out / "manifest.jsonl"
    while not manifest.exists() or manifest.read_bytes().count(b"\n") < KILLED_AFTER:
        time.sleep(0.01)
    cluster.remove_node(node, allow_graceful=False)
    done = manifest.read_bytes().count(b"\n")
    print(f"a node was killed; {done} shards were done", flush=True)


if __name__ == "__main__":
    sys.exit(main())
