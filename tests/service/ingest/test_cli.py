"""The command: its three sources, exit codes, dead letters that can be fed again, and messages for mistakes."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from model_store.attribution.code_counters import tally_codes
from model_store.attribution.counters import day_of
from model_store.attribution.keys import AttributionKeys
from model_store.attribution.token import Answered, sign
from model_store.bundle.registry import ModelStore
from model_store.console import run
from model_store.errors import DataError
from model_store.events.counts import codes_of_day
from service.ingest.cli import PROGRAM, app
from service.ingest.standard_input import StandardInput
from service.store import open_store
from tests.support.service_harness import live_store
from tests.support.service_process import ROOT

GOOD = b'{"event_id":"1","user_id":"u","item_id":"a","timestamp":1}\n'
DRIFTED = b'{"event_id":"2","user_id":"u","item_id":"b","timestamp":2,"shop":9}\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder of the command, whose store is embedded there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETEGREC_EVENTS_FOLDER", str(tmp_path / "log"))
    return tmp_path


def history(folder: Path) -> list[str]:
    async def read() -> list[str]:
        store = open_store(None, folder / "log")
        try:
            return (await store.history("u")).item_ids
        finally:
            await store.close()

    return asyncio.run(read())


def ingest(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = run(app, PROGRAM, [*arguments, "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


def piped(folder: Path, content: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "service.ingest", "stdin", *arguments]
    return subprocess.run(command, input=content, capture_output=True, cwd=folder, env=environment, check=False)


def test_files_are_fed_once_and_their_dead_letters_can_be_fed_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "events.jsonl").write_bytes(GOOD + DRIFTED)
    code, report, errors = ingest(capsys, "files", "events.jsonl")
    assert code == 4
    assert report == {
        "accepted": 1,
        "duplicates": 0,
        "refused": 1,
        "refused_fields": {"other": 1},
        "dropped_fields": {},
        "file_failures": 0,
        "attributions": {},
    }
    assert "error: 1 records were refused, and 0 files could not be read" in errors
    assert '"event": "records_refused"' in errors

    [dead] = [json.loads(line) for line in (folder / "dead-letters.jsonl").read_text().splitlines()]
    assert dead["line"] == 2
    assert dead["reason"].startswith("shop does not exist")
    (folder / "mended.jsonl").write_text(dead["record"] + "\n")
    code, report, _ = ingest(capsys, "files", "mended.jsonl", "--progress", "p.json", "--drop-unknown")
    assert (code, report["accepted"], report["dropped_fields"]) == (0, 1, {"shop": 1})
    assert history(folder) == ["a", "b"]

    code, report, _ = ingest(capsys, "files", "events.jsonl")
    assert (code, report["accepted"]) == (0, 0)


def test_clicks_count_by_the_codes_of_the_model_store(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = live_store(folder / "models")
    monkeypatch.setenv("ETEGREC_STORE", str(folder / "models"))
    monkeypatch.setenv("ETEGREC_ATTRIBUTION_KEYS", "a key of this shop")
    now = int(time.time())
    key = AttributionKeys.of([b"a key of this shop"], "").signing
    items = ("item-1", "put-later")
    clicks = [
        {"user_id": "u", "item_id": item, "attribution": sign(Answered(now, "", version, [item]), key)}
        for item in items
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(click) + "\n" for click in clicks))
    code, report, _ = ingest(capsys, "files", "events.jsonl")
    assert (code, report["attributions"]) == (0, {"valid": 2})

    catalogue = ModelStore(folder / "models").bundle(version).catalogue()
    row = catalogue.row("item-1")
    assert row is not None
    tally = tally_codes(asyncio.run(counters_by_code(folder)), version)
    assert tally.clicks == {int(catalogue.codes[row, 0]): 1}
    assert tally.unplaced == 1  # the version was sealed without it


async def counters_by_code(folder: Path) -> list[dict[str, float]]:
    store = open_store(None, folder / "log")
    try:
        return await store.counters.read([codes_of_day(day_of(int(time.time())))])
    finally:
        await store.close()


def test_standard_input_is_fed_to_its_end(folder: Path) -> None:
    done = piped(folder, GOOD + b"\n" + GOOD.rstrip())
    assert (done.returncode, done.stdout) == (0, b"1 events recorded, 1 were known already, 0 records refused\n")
    renamed = piped(folder, b'{"visitor":"u","item_id":"c"}\n', "--rename", "user_id=visitor")
    assert renamed.returncode == 0, renamed.stderr
    assert history(folder) == ["a", "c"]
    assert piped(folder, b"nonsense").returncode == 4


def test_standard_input_that_cannot_be_read_ends_it(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for redirection, message in (("<&-", b"there is no standard input"), ("0> written", b"Bad file descriptor")):
        command = f'exec "{sys.executable}" -m service.ingest stdin {redirection}'
        done = subprocess.run(
            ["sh", "-c", command], capture_output=True, cwd=folder, env=environment, timeout=100, check=False
        )
        assert done.returncode == 4, done.stderr
        assert message in done.stderr
        assert b"Traceback" not in done.stderr


def test_lines_before_a_failing_read_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = iter([GOOD + DRIFTED + GOOD[:9]])

    def failing(_: int, __: int) -> bytes:
        part = next(parts, None)
        if part is None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return part

    monkeypatch.setattr(os, "read", failing)
    source = StandardInput(1000, descriptor=7)
    batch = source.read(10)
    assert batch is not None
    assert [record.raw for record in batch.records] == [GOOD.rstrip(), DRIFTED.rstrip()]
    with pytest.raises(DataError, match="Input/output error"):
        source.read(10)


@pytest.mark.parametrize("arguments", [["stdin"], ["files", "events", "--follow"]])
def test_sigterm_ends_it_in_order(folder: Path, arguments: list[str]) -> None:
    (folder / "events").mkdir()
    (folder / "events" / "1.jsonl").write_bytes(GOOD)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "service.ingest", *arguments, "--dead-letters", "dead.jsonl"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=folder, env=environment)
    try:
        assert process.stdin is not None
        process.stdin.write(GOOD)
        process.stdin.flush()
        log = folder / "log"
        end = time.monotonic() + 60
        while not any(b'"event_id":"1"' in path.read_bytes() for path in log.glob("*.log")):
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
    assert history(folder) == ["a"]


def test_mistakes_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "events.jsonl").write_bytes(GOOD)
    assert run(app, PROGRAM, ["files", "events.jsonl", "--rename", "user=visitor"]) == 3
    assert "with FIELD one of event_id, user_id" in capsys.readouterr().err
    assert run(app, PROGRAM, ["files", "events.jsonl", "--dead-letters", "no/folder.jsonl"]) == 1
    assert "no/folder.jsonl" in capsys.readouterr().err
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(app, PROGRAM, ["files", "events.jsonl", "--metrics-port", str(port)]) == 3
        assert f"the port {port} of --metrics-port cannot be opened: Address already in use" in capsys.readouterr().err

    store = open_store(None, folder / "log")
    assert run(app, PROGRAM, ["files", "events.jsonl"]) == 7
    assert "the service runs and has the embedded store open" in capsys.readouterr().err
    asyncio.run(store.close())


def test_kafka_says_which_extra_is_missing(folder: Path) -> None:
    code = "import sys; sys.modules['confluent_kafka'] = None; from service.ingest.cli import main; main()"
    command = [sys.executable, "-c", code, "kafka", "topic"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 3
    assert "pip install 'etegrec[ingest]'" in done.stderr


def test_dead_letters_are_not_written_into_a_folder_named_like_a_url(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "events.jsonl").write_bytes(GOOD)
    assert run(app, PROGRAM, ["files", "events.jsonl", "--dead-letters", "s3://bucket/letters.jsonl"]) == 3
    assert "s3://bucket/letters.jsonl is a URL" in capsys.readouterr().err
    assert not (folder / "s3:").exists()
