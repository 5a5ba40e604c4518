"""Trials of mutations: one is written into a copy of the tree, and the tests of its module run in a fork.

Third-party packages that the tests import are imported once, before the forks. Our own are not, so each fork imports
the mutated module. The copy lies in a folder of its own: tests that start processes find the mutation there, too.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.mutations import Mutation

PRELOADED = (
    *("numpy", "pydantic", "pydantic_settings", "orjson", "structlog", "prometheus_client", "filelock", "fsspec"),
    *("pyarrow.parquet", "safetensors.numpy", "fastapi", "httpx", "redis.asyncio", "typer", "rich.console"),
    *("onnxruntime", "polars", "torch", "torch._dynamo", "onnx", "onnxscript", "apscheduler.triggers.cron"),
    *("matplotlib.figure", "opentelemetry.sdk.trace"),
)
"""Packages that take time to import, and whose import starts no thread. A fork would not inherit threads."""

PLUGINS = ("-p", "anyio.pytest_plugin", "-p", "_hypothesis_pytestplugin")
"""Plugins of pytest that the tests need; the others take longer to import than many tests run."""

MEMORY_LIMIT = 24 << 30
"""Address space of a trial in bytes: a mutation may collect things for ever."""

PATIENCE_S = 20.0
PATIENCE = 5
"""A trial may take so many seconds, and so many times as long as the tests take without a mutation."""

LONGEST_BASELINE_S = 1800.0
POLL_S = 0.02


class BaselineFailed(Exception):
    """The tests fail, or there are none, without any mutation."""


@dataclass(frozen=True)
class Baseline:
    """The tests of one module on the source as it is."""

    tests: tuple[str, ...]  # paths below the root
    seconds: float
    durations: Mapping[str, float]  # of each test in seconds, by its id

    @property
    def limit_s(self) -> float:
        """Time after which a mutant counts as killed, because it runs in circles."""
        return PATIENCE_S + PATIENCE * self.seconds


class Stopwatch:
    """Plugin of pytest that notes how long each test takes."""

    def __init__(self) -> None:
        self.durations: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the time of one phase of a test."""
        self.durations[report.nodeid] = self.durations.get(report.nodeid, 0.0) + report.duration


class FastestFirst:
    """Plugin of pytest that runs the fastest tests first: most mutants are killed by one of them."""

    def __init__(self, durations: Mapping[str, float]) -> None:
        self._durations = durations

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort the tests."""
        items.sort(key=lambda item: self._durations.get(item.nodeid, 0.0))


class Tree:
    """A copy of the tracked files, one of which is mutated at a time.

    Args:
        root: The repository.
        folder: Folder of the copy; it is made anew.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        names = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
        for name in filter(None, names):
            source = root / name
            if source.is_file() and not source.is_symlink():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        self._compile()

    def _compile(self) -> None:
        """Compile the copy once, or every fork would. Python compares the hash of a source, so it sees mutants."""
        command = [sys.executable, "-m", "compileall", "-q", "-x", r"/\.", "--invalidation-mode", "checked-hash", "."]
        subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.DEVNULL)

    def measure(self, tests: Sequence[str]) -> Baseline:
        """Run tests without a mutation, after importing the packages that they import.

        Raises:
            BaselineFailed: They do not pass.
        """
        self._preload(tests)
        report = self.folder / "durations.json"
        watch = Stopwatch()

        def write() -> None:
            report.write_text(json.dumps(watch.durations))

        started = time.monotonic()
        code = self._run(tests, LONGEST_BASELINE_S, watch, write)
        if code != 0:
            raise BaselineFailed(f"without any mutation, pytest ends with {code} for {' '.join(tests)}")
        return Baseline(tuple(tests), time.monotonic() - started, json.loads(report.read_text()))

    def is_killed(self, module: str, mutation: Mutation, baseline: Baseline) -> bool:
        """Tell whether the tests notice a mutation of a module, which is a path below the root."""
        path = self.folder / module
        source = path.read_text()
        path.write_text(mutation.apply(source))
        try:
            return self._run(baseline.tests, baseline.limit_s, FastestFirst(baseline.durations)) != 0
        finally:
            path.write_text(source)

    def _preload(self, tests: Sequence[str]) -> None:
        """Import what takes long; a fork that only collects the tests tells what they need."""
        report = self.folder / "imported-modules.txt"
        code = self._run(
            ["--collect-only", *tests], LONGEST_BASELINE_S, at_end=lambda: report.write_text("\n".join(sys.modules))
        )
        if code != 0:
            raise BaselineFailed(f"pytest ends with {code} when it collects {' '.join(tests)}")

        imported = set(report.read_text().split())
        for name in PRELOADED:
            if name in imported:
                importlib.import_module(name)

    def _run(
        self,
        arguments: Sequence[str],
        limit_s: float,
        plugin: object | None = None,
        at_end: Callable[[], object] | None = None,
    ) -> int | None:
        """Run tests in a fork and return pytest's exit code; ``None`` if it took too long.

        Args:
            arguments: Tests, and further options of pytest.
            limit_s: Longest time.
            plugin: Further plugin of pytest.
            at_end: Runs in the fork after the tests.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if not child:
            self._run_and_exit(arguments, plugin, at_end)

        deadline = time.monotonic() + limit_s
        try:
            while time.monotonic() < deadline:
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    return os.waitstatus_to_exitcode(status)
                time.sleep(POLL_S)
        finally:  # also when this command is interrupted
            _kill_group(child)
        os.waitpid(child, 0)
        return None

    def _run_and_exit(
        self, arguments: Sequence[str], plugin: object | None, at_end: Callable[[], object] | None
    ) -> None:
        """Run tests in this process, which is a fork, and end it."""
        code = 3
        try:
            gc.freeze()  # keep the parent's garbage: what joins a thread as it goes would wait here for ever
            os.setpgid(0, 0)  # the processes that tests start can be killed together with it
            silence = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(silence, stream)
            limit = resource.getrlimit(resource.RLIMIT_AS)[1]
            most = MEMORY_LIMIT if limit == resource.RLIM_INFINITY else min(MEMORY_LIMIT, limit)
            resource.setrlimit(resource.RLIMIT_AS, (most, limit))

            os.chdir(self.folder)
            os.environ["PYTHONPATH"] = str(self.folder)
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # a mutant may have the size and the second of the one before
            sys.dont_write_bytecode = True
            root = str(Path(__file__).resolve().parents[1])
            sys.path[:] = [str(self.folder), *(place for place in sys.path if place not in ("", root))]

            os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
            quiet = ["-x", "-q", "-p", "no:cacheprovider", *PLUGINS, "--hypothesis-seed=0"]
            quiet += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # some plugins are imported already
            code = int(pytest.main([*quiet, *arguments], [plugin] if plugin else []))
            if at_end is not None:
                at_end()
        finally:
            os._exit(code)


def _kill_group(leader: int) -> None:
    """Kill what is left of a trial: processes that its tests started."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return
