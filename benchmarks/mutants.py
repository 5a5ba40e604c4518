"""Share of small bugs that the tests notice, in the modules where a bug costs most (``make mutants``).

Mutants are made by :mod:`benchmarks.mutations` and tried by :mod:`benchmarks.mutant_trials`: one at a time, with the
tests of its module alone, as ``docs/make_map.py`` knows them. Which ones are tried is drawn with a seed. The command
ends when its minutes are over, and goes on where it stopped when it is called again: a mutant that was killed is not
tried again until its module changes, a survivor not until its module or the tests change.

One line of JSON a group: mutants, those tried so far, killed, known to change nothing, the survivors, and the score,
which is the share of killed ones among those that were tried and change something. The exit code is 1 if the score of a
group is below the wanted one.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from benchmarks.mutant_trials import BaselineFailed, Tree
from benchmarks.mutations import Mutation, mutations_of
from docs import make_map

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.toml")
RESULTS = ROOT / "build" / "mutants"

GROUPS = {
    "security": ("service/access",),
    "registry": tuple(
        f"model_store/bundle/{name}.py"
        for name in ("registry", "live_file", "version_folders", "writer_lock", "publish", "withheld")
    ),
    "bundle": (
        *("model_store/bundle/bundle.py", "model_store/bundle/parts.py", "model_store/bundle/manifest.py"),
        "model_store/bundle/golden.py",
        *("model_store/bundle/storage.py", "model_store/bundle/onnx_session.py", "model_store/bundle/vector_file.py"),
    ),
    "rules": ("service/ranking/filters.py",),
    "batcher": ("service/scheduling",),
    "reload": tuple(f"service/models/{name}.py" for name in ("manager", "slot", "loader")),
    "retrain": ("training/retraining",),
    "split": ("training/data/split.py",),
    "metrics": ("training/evaluation",),
}
"""Modules by group; a folder stands for all modules that lie in it."""

_REGISTRY = tuple(f"tests/model_store/bundle/test_registry{aspect}.py" for aspect in ("", "_collection", "_writers"))

_SIGNATURE = ("tests/model_store/bundle/test_signature.py",)

_MANAGER = ("tests/service/models/test_manager.py", "tests/service/models/test_manager_snapshots.py")

_TRIAL = ("tests/service/models/test_trial.py",)

ALSO = {
    "model_store/bundle/registry.py": _SIGNATURE,
    "model_store/bundle/live_file.py": _REGISTRY,
    "model_store/bundle/version_folders.py": _REGISTRY,
    "model_store/bundle/writer_lock.py": _REGISTRY,
    "model_store/bundle/publish.py": (*_REGISTRY, *_SIGNATURE),
    "model_store/bundle/storage.py": _REGISTRY,
    "service/models/loader.py": (*_MANAGER, *_TRIAL),
    "service/models/slot.py": _MANAGER,
    "service/models/manager.py": _TRIAL,
}
"""Tests of other names that a module is proved by."""

SLOW = frozenset({"tests/training/retraining/test_retrain.py"})
"""Tests that train a model: one trial would take minutes. A mutant that only they kill survives here."""


@dataclass(frozen=True)
class Module:
    """A module with its mutants and tests."""

    path: str
    source: str
    tests: tuple[str, ...]
    mutations: Sequence[Mutation]

    @classmethod
    def load(cls, path: str) -> Module:
        """Read a module of the repository, and find the tests that prove it."""
        source = (ROOT / path).read_text()
        found = make_map.own_tests(ROOT / path)
        if not found:
            importers = make_map.files_by_import(("tests",), "test_*.py").get(make_map.dotted(ROOT / path), [])
            found = importers[: make_map.MOST_TESTS]
        names = (str(test.relative_to(ROOT)) for test in found)
        tests = tuple(dict.fromkeys(name for name in (*names, *ALSO.get(path, ())) if name not in SLOW))
        return cls(path, source, tests, mutations_of(source))

    @property
    def source_hash(self) -> str:
        """Hash of the module."""
        return _hash(self.source)

    @property
    def tests_hash(self) -> str:
        """Hash of its tests."""
        return _hash(*((ROOT / test).read_text() for test in self.tests))


def modules_of(group: str) -> list[Module]:
    """Read the modules of a group."""
    places = [ROOT / name for name in GROUPS[group]]
    paths = [path for place in places for path in (make_map.modules(place) if place.is_dir() else [place])]
    return [Module.load(str(path.relative_to(ROOT))) for path in paths]


class Results:
    """Results of the mutants of one module, kept in a file between calls."""

    def __init__(self, module: Module, folder: Path) -> None:
        self._path = folder / f"{module.path.replace('/', '.')}.jsonl"
        self._source = module.source_hash
        self._tests = module.tests_hash
        self.killed: dict[str, bool] = {}
        for line in self._path.read_text().splitlines() if self._path.exists() else ():
            known = json.loads(line)
            if known["source"] == self._source and (known["killed"] or known["tests"] == self._tests):
                self.killed[known["mutant"]] = known["killed"]

    def add(self, mutation: Mutation, killed: bool) -> None:
        """Keep a result."""
        self.killed[mutation.key] = killed
        entry = {"mutant": mutation.key, "killed": killed, "source": self._source, "tests": self._tests}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


class Limits(NamedTuple):
    """Bounds of one run."""

    ends_at: float  # time.monotonic()
    most: int  # mutants of a module
    seed: int


def sample(module: Module, equivalent: frozenset[str], limits: Limits) -> list[Mutation]:
    """Draw the mutants to try, in the order in which they are tried; the same ones for the same seed."""
    shuffled = list(module.mutations)
    random.Random(f"{limits.seed} {module.path}").shuffle(shuffled)
    return [each for each in shuffled if f"{module.path}: {each.key}" not in equivalent][: limits.most]


def try_module(module: Module, tree: Tree, results: Results, equivalent: frozenset[str], limits: Limits) -> None:
    """Try the mutants of a module that have no result yet, while there is time."""
    waiting = [each for each in sample(module, equivalent, limits) if each.key not in results.killed]
    if not waiting or time.monotonic() >= limits.ends_at:
        return

    baseline = tree.measure(module.tests)
    for mutation in waiting:
        if time.monotonic() >= limits.ends_at:
            return
        killed = tree.is_killed(module.path, mutation, baseline)
        results.add(mutation, killed)
        if not killed:
            typer.echo(f"survived: {module.path}:{mutation.line} {mutation.key}", err=True)


def summary(name: str, modules: Sequence[Module], results: Sequence[Results], known: frozenset[str]) -> dict[str, Any]:
    """Return the line of a group."""
    tried = {}
    equivalent = 0
    for module, found in zip(modules, results, strict=True):
        for mutation in module.mutations:
            key = f"{module.path}: {mutation.key}"
            if key in known:
                equivalent += 1
            elif mutation.key in found.killed:
                tried[f"{module.path}:{mutation.line} {mutation.key}"] = found.killed[mutation.key]

    survived = [key for key, killed in tried.items() if not killed]
    return {
        "bench": "mutants",
        "module": name,
        "mutants": sum(len(module.mutations) for module in modules),
        "tried": len(tried),
        "killed": len(tried) - len(survived),
        "equivalent": equivalent,
        "survived": survived,
        "score": round(1 - len(survived) / len(tried), 3) if tried else None,
    }


def read_equivalent(path: Path = EQUIVALENT) -> frozenset[str]:
    """Return the mutants that change nothing anyone can see, each as ``path: key``.

    Raises:
        ValueError: One of them has no reason, or does not exist any more.
    """
    entries = tomllib.loads(path.read_text()).get("mutant", [])
    for entry in entries:
        if not entry.get("why", "").strip():
            raise ValueError(f"{path.name}: {entry['module']}: {entry['key']} has no reason")
        if entry["key"] not in {each.key for each in mutations_of((ROOT / entry["module"]).read_text())}:
            raise ValueError(f"{path.name}: {entry['module']} has no mutant {entry['key']!r} any more")
    return frozenset(f"{entry['module']}: {entry['key']}" for entry in entries)


def run(names: Sequence[str], limits: Limits, folder: Path) -> Iterator[dict[str, Any]]:
    """Try each group in turn and yield its line. Groups share the time evenly; what one leaves over the next ones get.

    Raises:
        BaselineFailed: The tests of a module fail as they are.
    """
    equivalent = read_equivalent()
    tree = Tree(ROOT, folder / "tree")
    groups = [modules_of(name) for name in names]  # all now, as the copy has them
    known = [[Results(module, folder) for module in modules] for modules in groups]
    for number, (name, modules, results) in enumerate(zip(names, groups, known, strict=True)):
        group_ends = time.monotonic() + (limits.ends_at - time.monotonic()) / (len(names) - number)
        for place, (module, found) in enumerate(zip(modules, results, strict=True)):
            share_s = (group_ends - time.monotonic()) / (len(modules) - place)
            try_module(module, tree, found, equivalent, limits._replace(ends_at=time.monotonic() + share_s))
        yield summary(name, modules, results, equivalent)


def main(
    module: Annotated[list[str] | None, typer.Option(help=f"Groups to try: {', '.join(GROUPS)}.")] = None,
    minutes: Annotated[float, typer.Option(min=0, help="Time for all of them; 0 shows what is known.")] = 30.0,
    most: Annotated[int, typer.Option(min=1, help="Mutants of a module at most, drawn by the seed.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the order in which mutants are tried.")] = 0,
    wanted: Annotated[float, typer.Option(min=0, max=1, help="Lowest score of a group.")] = 0.95,
    folder: Annotated[Path, typer.Option(help="Folder of the results and of the mutated copy.")] = RESULTS,
) -> None:
    """Put small bugs into the most dangerous modules, one by one, and count those that the tests notice."""
    names = module or list(GROUPS)
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]} is none of {', '.join(GROUPS)}", param_hint="--module")

    is_enough = True
    try:
        for line in run(names, Limits(time.monotonic() + 60 * minutes, most, seed), folder.resolve()):
            typer.echo(json.dumps(line, ensure_ascii=False))
            is_enough &= line["score"] is None or line["score"] >= wanted
    except BaselineFailed as failure:
        typer.echo(f"error: {failure}", err=True)
        sys.exit(2)
    sys.exit(0 if is_enough else 1)


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


if __name__ == "__main__":
    typer.run(main)
