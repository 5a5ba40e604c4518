"""The process that tries a version answers with one line, within its limits, and ends with the one that asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from model_store.bundle.registry import ModelStore
from service.models.trial import NEEDED_SETTINGS, TRIAL_MODULE
from service.models.trial_process import LONGEST_MESSAGE, answer
from tests.support.bundles import small_config
from tests.support.graphs import publish_search, slow_search
from tests.support.service_harness import fast_settings, live_store

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", TRIAL_MODULE]


def question(folder: Path, version: str, **given: Any) -> bytes:
    settings = fast_settings(folder, **given).model_dump(mode="json", include=NEEDED_SETTINGS)
    return json.dumps({"version": version, "settings": settings}).encode() + b"\n"


def ask(*command: str, asked: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the answer, and what was written to standard error."""
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(asked)
        process.stdin.flush()
        [line] = process.stdout.readlines()
        assert process.wait(30) == 0
        return json.loads(line), process.stderr.read()


NOISY = """
import os, runpy, sys
from service.models import loading
usual = loading.open_engine
def noisy(*given):
    print("from Python")
    os.write(1, b"from a library")
    return usual(*given)
loading.open_engine = noisy
runpy.run_module(sys.argv[1], run_name="__main__")
"""


def test_what_libraries_print_is_not_taken_for_the_answer(tmp_path: Path) -> None:
    version = live_store(tmp_path)
    found, errors = ask(sys.executable, "-c", NOISY, TRIAL_MODULE, asked=question(tmp_path, version))
    assert found["digest"] == ModelStore(tmp_path).bundle(version).manifest.digest
    assert b"from a library" in errors


LIMITS = """
import os, resource, runpy, sys
from service.models import loading
usual = loading.open_engine
def shown(*given):
    data, cpu = resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_CPU)
    print(data[0] >> 20, cpu[0], os.nice(0), open("/proc/self/oom_score_adj").read().strip(), flush=True)
    return usual(*given)
loading.open_engine = shown
runpy.run_module(sys.argv[1], run_name="__main__")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")
@pytest.mark.parametrize(("given", "megabytes"), [({}, 2048), ({"load_memory_mb": 700}, 700)])
def test_limits_hold_before_anything_is_opened(tmp_path: Path, given: dict[str, int], megabytes: int) -> None:
    version = live_store(tmp_path)
    asked = question(tmp_path, version, load_timeout_s=50, **given)
    found, errors = ask(sys.executable, "-c", LIMITS, TRIAL_MODULE, asked=asked)
    assert "digest" in found
    memory, cpu_s, niceness, score = (int(each) for each in errors.split())
    assert memory == megabytes
    assert cpu_s >= 51
    assert niceness >= min(os.nice(0) + 10, 19)
    assert score == 1000


def test_the_process_ends_with_the_one_that_asked(tmp_path: Path) -> None:
    version = publish_search(tmp_path, slow_search(small_config()))
    with subprocess.Popen(COMMAND, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(question(tmp_path, version, engine="onnx"))
        process.stdin.flush()
        time.sleep(3)
        assert process.poll() is None
        process.stdin.close()  # as the system does when a process is killed
        assert process.wait(30) == 1


def test_an_error_is_answered_with_its_kind_and_a_message_that_fits(tmp_path: Path) -> None:
    live_store(tmp_path)
    settings = fast_settings(tmp_path)
    found = answer("absent", settings)
    assert found == {
        "error": "ModelStoreError",
        "message": "the model store has no version absent",
        "hint": "`etegrec-models list` shows the versions",
    }
    unexpected = answer("x" * 10_000, settings.model_copy(update={"store": 7}))
    assert unexpected["error"] == "BundleRefused"
    assert len(unexpected["message"]) <= LONGEST_MESSAGE
