"""Three Ray nodes on this machine write the same files as its processes, though one is killed in mid-run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.batch_runs import batch, files, walks, write_users

ROOT = Path(__file__).parents[3]


def test_three_nodes_one_of_which_is_killed(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'etegrec[scale]' (240 MB)")
    users = write_users(tmp_path / "users.parquet", walks(400))
    options = ["--users", str(users), "--shard-size", "5", "--k", "20"]
    assert batch("recommend", store, tmp_path / "local", *options) == 0

    # Ray's own threads and warnings stay in a process of their own.
    arguments = ["--kill", "--store", str(store), "--out", str(tmp_path / "ray"), *options]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ray_nodes", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "a node was killed" in done.stdout
    assert "done already" not in done.stderr
    assert files(tmp_path / "ray") == files(tmp_path / "local")
    assert len(files(tmp_path / "local")) == 80
