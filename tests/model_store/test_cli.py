from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from model_store import console
from model_store.bundle.registry import ModelStore
from model_store.cli import app
from model_store.errors import BundleRefused, StoreUnavailable
from tests.support.bundles import publish_small


class Terminal:
    """Runs commands on one store and keeps what they print."""

    def __init__(self, store: ModelStore, capture: pytest.CaptureFixture[str]) -> None:
        self.store, self.capture = store, capture

    def __call__(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        self.capture.readouterr()
        assert console.run(app, "etegrec-models", [*arguments, "--store", self.store.url]) == code
        shown = self.capture.readouterr()
        assert not (arguments[-1] == "--json" and shown.out.count("\n") != 1)
        return shown.out, shown.err

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json")[0])


@pytest.fixture
def terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(ModelStore(tmp_path / "models"), capsys)


@pytest.fixture
def versions(terminal: Terminal) -> list[str]:
    return [publish_small(terminal.store, seed) for seed in range(3)]


def test_life_of_versions(terminal: Terminal, versions: list[str]) -> None:
    a, b, c = versions
    assert terminal.json("promote", a) == {"live": a, "before": None, "overridden": None}
    assert f"{b} is live now, {a} was live before" in terminal("promote", b)[0]
    assert "live already" in terminal("promote", b)[0]
    listed = terminal.json("list")
    assert (listed["live"], listed["previous"]) == (b, a)
    assert [(row["version"], row["state"]) for row in listed["versions"]] == [(a, "previous"), (b, "live"), (c, "")]
    assert listed["versions"][0]["bytes"] > 0
    assert all(version in terminal("list")[0] for version in versions)
    assert terminal.json("rollback") == {"live": a, "before": b, "reason": ""}
    terminal("promote", b)
    assert f"would remove {c}" in terminal("gc", "--keep", "0", "--dry-run")[0]
    assert terminal.json("gc", "--keep", "0", "--pin", c)["removed"] == []
    assert terminal.json("gc", "--keep", "0") == {"removed": [c], "leftovers": [], "kept": [a, b], "dry_run": False}
    assert f"{a} is live again instead of {b}" in terminal("rollback")[0]


def test_a_rollback_shows_until_a_person_overrides_it(terminal: Terminal, versions: list[str]) -> None:
    a, b, c = versions
    terminal("promote", a)
    terminal("promote", b)
    said, _ = terminal("rollback", "--reason", "clicks fell")
    assert f"{a} is live again instead of {b}\n" in said
    assert f"`etegrec-models promote {b}` overrides" in said

    rows = {row["version"]: row for row in terminal.json("list")["versions"]}
    assert [rows[version]["state"] for version in versions] == ["live", "rolled back", ""]
    assert rows[a]["withheld"] is None
    assert rows[c]["withheld"] is None
    found = rows[b]["withheld"]
    assert (found["state"], found["reason"]) == ("rolled back", "clicks fell")
    at = f"{found['at'][:10]} {found['at'][11:16]} UTC"
    assert f"{b} was rolled back on {at} (clicks fell)\n" in terminal("list")[0]
    assert terminal.json("show", b)["withheld"] == found
    assert f"no, rolled back on {at} (clicks fell)" in terminal("show", b)[0]
    assert terminal.json("show", a)["withheld"] is None

    said, _ = terminal("promote", b)
    assert f"{b} is live now, {a} was live before\nit was rolled back on {at} (clicks fell); this" in said
    assert terminal.json("list")["versions"][1]["withheld"] is None
    terminal("rollback")
    assert terminal.json("promote", b)["overridden"]["state"] == "rolled back"


def test_a_version_held_back_shows_and_a_damaged_one_too(terminal: Terminal, versions: list[str]) -> None:
    terminal.store.withhold(versions[0], "held back", "too good")
    terminal.store.withhold(versions[1], "held back", "much too good")
    terminal.store.root.child(versions[1]).write("manifest.json", b"{}")
    assert [row["state"] for row in terminal.json("list")["versions"]] == ["held back", "held back damaged", ""]
    assert "(too good)" in terminal("list")[0]
    assert "(much too good)" in terminal("list")[0]


def test_show(terminal: Terminal, versions: list[str]) -> None:
    terminal("show", code=6)
    terminal("promote", versions[1])
    shown = terminal.json("show")
    assert (shown["version"], shown["live"]) == (versions[1], True)
    assert shown["metrics"]["generative"]["ndcg@10"] == 0.25
    text, _ = terminal("show", versions[0])
    for fact in (versions[0], "ndcg@10", "0.2500", "search.onnx", "config.tokenizer.codebook_size", "random"):
        assert fact in text


def test_verify_and_list_point_at_damage(terminal: Terminal, versions: list[str]) -> None:
    good, bad, worse = versions
    assert terminal("verify", good)[0] == f"{good} is intact\n"
    terminal.store.root.child(bad).write("search.onnx", b"x" * 200)
    terminal.store.root.child(worse).write("manifest.json", b"{}")
    out, err = terminal("verify", "--all", code=5)
    assert out == f"{good} is intact\n{bad} is damaged\n{worse} is damaged\n"
    assert err.startswith(f"error: version {bad} refused: search.onnx: its SHA-256 is not the sealed one\nfix: ")
    assert json.loads(terminal("verify", "--all", "--json", code=5)[0])[good] == "intact"
    rows = terminal.json("list")["versions"]
    assert [row["state"] for row in rows] == ["", "", "damaged"]
    assert "manifest.json" in rows[2]["problem"]
    assert "damaged" in terminal("list")[0]


def test_a_store_that_does_not_exist_is_not_created(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for command in (["list"], ["show"], ["promote", "v"], ["rollback"], ["gc"]):
        error = terminal(*command, code=5)[1]
        assert f"models does not exist (did you mean {tmp_path / 'model'}?)" in error
    assert not (tmp_path / "models").exists()


def test_empty_store(terminal: Terminal) -> None:
    terminal.store.create()
    assert "holds no versions yet" in terminal("list")[0]
    assert terminal.json("list")["versions"] == []
    assert terminal.json("gc") == {"removed": [], "leftovers": [], "kept": [], "dry_run": False}
    for command in ("rollback", "show", "verify"):
        out, err = terminal(command, code=6)
        assert out == ""
        assert err.startswith("error: no version is live")
        assert "\nfix: " in err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["promote"], 2),
        (["gc", "--keep", "-1"], 2),
        (["gc", "--keep", "many"], 2),
        (["unknown"], 2),
        (["promote", "absent"], 6),
        (["promote", "../etc"], 6),
        (["gc", "--pin", "absent"], 6),
        (["verify", "v1", "--all"], 3),
    ],
)
def test_exit_codes(terminal: Terminal, versions: list[str], arguments: list[str], code: int) -> None:
    out, err = terminal(*arguments, code=code)
    assert out == ""
    assert err
    assert terminal.store.versions() == versions


def test_a_busy_store_has_its_own_code(
    terminal: Terminal, versions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_store.cli.ModelStore", lambda url: ModelStore(url, lock_timeout_s=0.05))
    with terminal.store.lock():
        _, err = terminal("promote", versions[0], code=7)
    assert "another process" in err


@pytest.mark.parametrize("command", [[], ["list"], ["show"], ["verify"], ["promote"], ["rollback"], ["gc"]])
def test_help_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert console.run(app, "etegrec-models", [*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage: etegrec-models" in text
    assert "--store" in text if command else "Exit codes: 0 done" in text


def raising(error: BaseException) -> typer.Typer:
    broken = console.new_app("Fails.")

    @broken.command()
    def fail() -> None:
        raise error

    return broken


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (BundleRefused("cause", "cure"), 5, "error: cause\nfix: cure\n"),
        (StoreUnavailable("cause"), 8, "error: cause\n"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(9), 9, ""),
        (ValueError("odd"), 1, "error: unexpected ValueError: odd\nfix: this is a bug"),
    ],
    ids=["refused", "without hint", "Ctrl-C", "exit", "bug"],
)
def test_how_commands_fail(error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.run(raising(error), "etegrec-test", []) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(said) if said else not shown.err.strip()
    assert "Traceback" not in shown.err


def test_debug_shows_where(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(console.DEBUG_ENV, "1")
    assert console.run(raising(ValueError("odd")), "etegrec-test", []) == 1
    assert "Traceback" in capsys.readouterr().err


def test_json_is_one_line_of_real_json(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"title": "Amélie\n"})
    assert capsys.readouterr().out == '{"title": "Amélie\\n"}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        console.print_json({"metric": float("nan")})


def test_as_a_module_and_from_the_environment(tmp_path: Path) -> None:
    version = publish_small(ModelStore(tmp_path))
    environment = {"ETEGREC_STORE": str(tmp_path), "PATH": ""}
    command = [sys.executable, "-m", "model_store", "list", "--json"]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert [row["version"] for row in json.loads(done.stdout)["versions"]] == [version]


def test_aliases_are_set_listed_shown_and_removed(terminal: Terminal, versions: list[str]) -> None:
    live, first, second = versions
    terminal("promote", live)
    given = terminal.json("alias", "candidate", first, "--share", "0.25")
    assert (given["alias"], given["version"], given["share"]) == ("candidate", first, 0.25)
    assert f"{second} is the shadow now, with 0.05 of the traffic" in terminal("alias", "shadow", second)[0]

    listed = terminal.json("list")
    assert listed["aliases"]["candidate"]["version"] == first
    assert [row["state"] for row in listed["versions"]] == ["live", "candidate", "shadow"]
    assert f"{first} is the candidate, with 0.25 of the traffic since" in terminal("list")[0]
    assert terminal.json("show", first)["aliases"]["candidate"]["share"] == 0.25
    assert "0.05 of the traffic" in terminal("show", second)[0]
    assert terminal.json("show", live)["aliases"] == {}

    assert terminal.json("alias", "shadow", "--remove") == {"alias": "shadow", "removed": second}
    assert "no version is the shadow" in terminal("alias", "shadow", "--remove")[0]
    assert f"{first} is no longer the candidate" in terminal("alias", "candidate", "--remove")[0]
    assert [row["state"] for row in terminal.json("list")["versions"]] == ["live", "", ""]


def test_a_wrong_alias_is_told_what_to_do(terminal: Terminal, versions: list[str]) -> None:
    terminal("promote", versions[0])
    assert "choose from candidate, shadow" in terminal("alias", "canary", versions[1], code=3)[1]
    assert "etegrec-models promote" in terminal("alias", "live", versions[1], code=3)[1]
    assert "use --remove, one of both" in terminal("alias", "shadow", code=3)[1]
    assert "use --remove, one of both" in terminal("alias", "shadow", versions[1], "--remove", code=3)[1]
    assert "must be between 0 and 1" in terminal("alias", "shadow", versions[1], "--share", "2", code=3)[1]
