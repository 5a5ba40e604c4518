"""Mutants of a small module: which there are, and that tests which notice a bug are told from those which do not."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import mutant_trials, mutants
from benchmarks.mutant_trials import BaselineFailed, Tree
from benchmarks.mutants import Limits, Module, Results, read_equivalent, sample, summary, try_module
from benchmarks.mutations import mutations_of
from model_store.console import new_app

SOURCE = '''"""Texts stay: 1 < 2 and True."""

import log

MOST = 8


class Shop:
    """Counts 3 things."""

    size: int = 2

    def take(self, wanted: int, left: list[int], *, limit: int = 4) -> list[int]:
        """Return 5."""
        log.info("taken", wanted=wanted, most=MOST + 1)
        if not wanted or wanted > limit:
            raise ValueError(f"{wanted} is more than {limit + 1}", "ask for less")
        left.sort(reverse=True)
        self.size -= wanted
        self.rows["ä"] = min(wanted, MOST)  # bytes are not letters
        for each in left:
            if each in self.rows:
                continue
            put(each, wanted, at=6)
        return left[:wanted]
'''


def keys(source: str) -> list[str]:
    return [mutation.key for mutation in mutations_of(source)]


def test_each_kind_of_bug_is_made_and_nothing_else() -> None:
    assert keys(SOURCE) == [
        "Shop: 2 -> 3",
        "Shop.take: not wanted -> (wanted)",
        "Shop.take: not wanted or wanted > limit -> ((not wanted) and (wanted > limit))",
        "Shop.take: not wanted or wanted > limit -> (not wanted)",
        "Shop.take: not wanted or wanted > limit -> (wanted > limit)",
        "Shop.take: > -> <=",
        "Shop.take: > -> >=",
        'Shop.take: raise ValueError(f"{wanted} is more than {limit + 1}", "ask for less") -> pass',
        "Shop.take: left.sort(reverse=True) -> left.sort()",
        "Shop.take: left.sort(reverse=True) -> pass",
        "Shop.take: True -> False",
        "Shop.take: self.size -= wanted -> pass",
        "Shop.take: -= -> +=",
        'Shop.take: self.rows["ä"] = min(wanted, MOST) -> pass',
        "Shop.take: min -> max",
        "Shop.take: in -> not in",
        "Shop.take: continue -> break",
        "Shop.take: continue -> pass",
        "Shop.take: put(each, wanted, at=6) -> pass",
        "Shop.take: put(each, wanted, at=6) -> put(each, wanted)",
        "Shop.take: each, wanted -> wanted, each",
        "Shop.take: 6 -> 7",
        "Shop.take: return left[:wanted] -> return None",
        "Shop.take: wanted -> nothing",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x = a if b else c", {"module: b -> (not (b))"}),
        ("x = [a for a in b if a]", {"module: a -> True"}),
        ("x = a and (b or c)", {"module: b or c -> (b)", "module: b or c -> (c)", "module: b or c -> ((b) and (c))"}),
        ("x = (a) == (b)", {"module: == -> !="}),
        ("x = a is not None", {"module: is not -> is"}),
        ("x = a // b", {"module: a // b -> ((a) * (b))"}),
        ("x = 'a' + b", set()),
        ("x = f'{a + 1}'", set()),
        ("x: int = f(description=1)", set()),
        ("assert x > 1", set()),
        ("if TYPE_CHECKING:\n    import y", set()),
        ("def f(x: Literal[1]) -> Literal[2]: ...", set()),
        ("@lru_cache(maxsize=7)\ndef f(): ...", set()),
        ("def f(a=1, *, b=True):\n    return None", {"f: True -> False"}),
        ("zip(a, b, strict=True)", {"module: a, b -> b, a"}),
        ("MOST = 4", set()),
        ("def f():\n    return None", set()),
        ("compare_digest(a, b)", {"module: compare_digest(a, b) -> pass"}),
    ],
)
def test_single_lines(line: str, expected: set[str]) -> None:
    found = set(keys(line))
    assert expected <= found
    assert bool(expected) == bool(found)


def test_every_mutation_is_valid_python_and_changes_its_own_line() -> None:
    for mutation in mutations_of(SOURCE):
        mutated = mutation.apply(SOURCE)
        compile(mutated, "mutated", "exec")
        before, after = SOURCE.splitlines(), mutated.splitlines()
        assert len(before) == len(after)
        assert [n for n, (old, new) in enumerate(zip(before, after, strict=True), 1) if old != new] == [mutation.line]


def test_equal_mutations_of_a_function_are_numbered() -> None:
    assert keys("def f():\n    g()\n    g()") == ["f: g() -> pass", "f: g() -> pass #2"]


TILL = """
def change(paid, price):
    note(paid)
    return paid - price


def note(paid):
    if paid < 0:
        raise ValueError(paid)


def count_down(left):
    while left:
        left = left - 1
"""

TEST_TILL = """
from shop.till import change, count_down


def test_change():
    assert change(5, 3) == 2


def test_count_down():
    count_down(2)
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one module and its tests."""
    root = tmp_path / "repository"
    for name, text in {
        "shop/__init__.py": "",
        "shop/till.py": TILL,
        "tests/test_till.py": TEST_TILL,
        "pyproject.toml": "[tool.pytest.ini_options]\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    monkeypatch.setattr(mutants, "ROOT", root)
    monkeypatch.setattr(mutant_trials, "LONGEST_BASELINE_S", 120.0)
    return root


def till(source: str = TILL) -> Module:
    return Module("shop/till.py", source, ("tests/test_till.py",), mutations_of(source))


def unlimited() -> Limits:
    return Limits(float("inf"), 100, 0)


def test_trials_tell_what_tests_notice_from_what_they_do_not(repository: Path, tmp_path: Path) -> None:
    module = till()
    tree = Tree(repository, tmp_path / "tree")
    results = Results(module, tmp_path)
    skipped = frozenset(f"shop/till.py: {each.key}" for each in module.mutations if each.function == "count_down")
    try_module(module, tree, results, skipped, unlimited())
    assert results.killed == {
        "change: note(paid) -> pass": False,
        "change: paid - price -> ((paid) + (price))": True,
        "change: return paid - price -> return None": True,
        "note: < -> <=": False,
        "note: < -> >=": True,
        "note: 0 -> 1": False,
        "note: raise ValueError(paid) -> pass": False,
    }
    assert summary("till", [module], [results], skipped) == {
        "bench": "mutants",
        "module": "till",
        "mutants": 10,
        "tried": 7,
        "killed": 3,
        "equivalent": 3,
        "survived": [
            "shop/till.py:3 change: note(paid) -> pass",
            "shop/till.py:8 note: < -> <=",
            "shop/till.py:8 note: 0 -> 1",
            "shop/till.py:9 note: raise ValueError(paid) -> pass",
        ],
        "score": 0.429,
    }
    assert (tmp_path / "tree" / "shop" / "till.py").read_text() == TILL, "the copy is whole again"


def test_a_mutant_that_runs_in_circles_counts_as_killed(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutant_trials, "PATIENCE_S", 0.5)
    monkeypatch.setattr(mutant_trials, "PATIENCE", 1)
    tree = Tree(repository, tmp_path / "tree")
    endless = next(each for each in till().mutations if each.after == "((left) + (1))")
    assert tree.is_killed("shop/till.py", endless, tree.measure(["tests/test_till.py"]))


class Joins:
    """Garbage, as it is in a cycle, that waits for a thread when it is collected; as a session of ONNX Runtime does."""

    def __init__(self) -> None:
        self.itself = self
        self.leave = threading.Event()
        self.thread = threading.Thread(target=self.leave.wait, daemon=True)
        self.thread.start()
        self.parent = os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.parent:
            time.sleep(1000)  # the thread is not there
        self.leave.set()


def test_a_trial_does_not_collect_the_garbage_of_the_process_that_started_it(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutant_trials, "LONGEST_BASELINE_S", 30.0)
    gc.disable()
    try:
        Joins()
        assert Tree(repository, tmp_path / "tree").measure(["tests/test_till.py"]).seconds < 30
    finally:
        gc.enable()


def test_tests_that_fail_without_a_mutation_are_an_error(repository: Path, tmp_path: Path) -> None:
    (repository / "tests" / "test_till.py").write_text("def test_nothing():\n    assert False\n")
    with pytest.raises(BaselineFailed, match="without any mutation, pytest ends with 1"):
        Tree(repository, tmp_path / "tree").measure(["tests/test_till.py"])


def test_results_are_kept_until_the_module_or_for_survivors_the_tests_change(repository: Path, tmp_path: Path) -> None:
    module = till()
    first, second = module.mutations[:2]
    results = Results(module, tmp_path)
    results.add(first, killed=True)
    results.add(second, killed=False)
    assert Results(module, tmp_path).killed == {first.key: True, second.key: False}
    (repository / "tests" / "test_till.py").write_text(TEST_TILL + "\n")
    assert Results(module, tmp_path).killed == {first.key: True}
    assert Results(till(TILL + "\n"), tmp_path).killed == {}


def test_the_seed_decides_what_is_tried() -> None:
    module = till()
    drawn = [sample(module, frozenset(), Limits(0.0, 4, seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [len(each) for each in drawn] == [4, 4, 4]
    skipped = f"shop/till.py: {drawn[0][0].key}"
    assert drawn[0][0] not in sample(module, frozenset({skipped}), Limits(0.0, 100, 0))


def test_every_group_has_modules_with_tests_of_their_own_and_all_exceptions_have_reasons() -> None:
    read_equivalent()
    found = [module for name in mutants.GROUPS for module in mutants.modules_of(name)]
    assert len(found) == len({module.path for module in found}) > 20
    for module in found:
        assert module.tests, module.path
        assert module.mutations, module.path


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"module": "service/ranking/filters.py", "key": "x", "why": " "}, "has no reason"),
        (
            {"module": "service/ranking/filters.py", "key": "no such", "why": "because"},
            "has no mutant 'no such' any more",
        ),
    ],
)
def test_exceptions_need_a_reason_and_a_mutant(tmp_path: Path, entry: dict[str, str], message: str) -> None:
    path = tmp_path / "list.toml"
    path.write_text("[[mutant]]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in entry.items()))
    with pytest.raises(ValueError, match=message):
        read_equivalent(path)


def test_without_time_the_command_shows_what_is_known_and_refuses_unknown_groups(tmp_path: Path) -> None:
    app = new_app("benchmark")
    app.command()(mutants.main)
    result = CliRunner().invoke(app, ["--module", "split", "--minutes", "0", "--folder", str(tmp_path)])
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout.splitlines()[-1])
    assert (line["bench"], line["module"], line["tried"], line["score"]) == ("mutants", "split", 0, None)
    assert line["mutants"] > 100
    assert CliRunner().invoke(app, ["--module", "nonsense"]).exit_code == 2
