"""A promoted version is tried in a process of its own: whatever it does there, the service goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import structlog

from model_store.bundle.key_files import create_keys
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import SigningKey
from model_store.errors import BundleRefused, ConfigError, LoadTimeout, VersionNotFound
from service.app import create_app
from service.models.failures import LACKING
from service.models.loading import KnownItemsOnly, open_coder
from service.models.trial import NEEDED_SETTINGS, FileCheck, ProcessTrial, Tried
from service.service import Service
from service.settings import Settings
from service.store import open_store
from tests.support.bundles import NOON, bundle_files, description, publish_small, small_config
from tests.support.graphs import large_search, publish_search, slow_search
from tests.support.service_harness import fast_settings, live_store, loaded_model, metric, running, serving, until

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[3]

LONG_S = 600.0
"""Time limit that no test waits for."""


def trial(folder: Path, **given: object) -> ProcessTrial:
    return ProcessTrial(fast_settings(folder, **{"load_timeout_s": LONG_S, **given}))


def trials_of(process: int) -> list[int]:
    """Return the trials that a process has started and that have not ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == process and "service.models.trial_process" in command:  # an ended one has no command
            found.append(int(entry.name))
    return found


async def test_a_good_version_passes_and_the_digest_is_its_manifests(tmp_path: Path) -> None:
    version = live_store(tmp_path)
    manifest = ModelStore(tmp_path).bundle(version).manifest
    tried = await trial(tmp_path)(version)
    assert tried.digest == manifest.digest
    assert manifest.size < tried.memory_bytes < 1 << 30
    assert await FileCheck(ModelStore(tmp_path))(version) == (manifest.digest, manifest.size)


async def test_memory_of_the_process_that_starts_a_trial_is_not_counted(tmp_path: Path) -> None:
    """A service of many gigabytes would refuse each second model as too large for its memory."""
    version = live_store(tmp_path)
    alone = (await trial(tmp_path)(version)).memory_bytes
    held = np.ones(800 << 20, dtype=np.uint8)
    assert (await trial(tmp_path)(version)).memory_bytes < alone + (200 << 20)
    assert held.any()


async def test_a_version_that_never_finishes_is_given_up_and_its_process_ends(tmp_path: Path) -> None:
    version = publish_search(tmp_path, slow_search(small_config()))
    with pytest.raises(LoadTimeout, match=f"version {version} was not loaded within 6 s") as caught:
        await trial(tmp_path, engine="onnx", load_timeout_s=6)(version)
    assert "LOAD_TIMEOUT_S" in caught.value.hint
    assert not trials_of(os.getpid())


async def test_a_version_that_takes_all_memory_is_refused(tmp_path: Path) -> None:
    """Eight gigabytes, and the limit is one: memory that is refused is never touched."""
    version = publish_search(tmp_path, large_search(small_config(), gigabytes=8))
    with pytest.raises(BundleRefused):
        await trial(tmp_path, engine="onnx", load_memory_mb=1024)(version)


async def test_a_process_that_dies_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.models.trial.TRIAL_MODULE", "antigravity_of_nobody")
    version = live_store(tmp_path)
    with pytest.raises(BundleRefused, match=f"version {version} refused: .* ended with exit code 1") as caught:
        await trial(tmp_path)(version)
    assert "LOAD_MEMORY_MB" in caught.value.hint


@pytest.mark.parametrize("name", ["golden.json", "report/index.md"])
async def test_a_flipped_bit_in_any_file_is_found(tmp_path: Path, name: str) -> None:
    version = live_store(tmp_path)
    flip(tmp_path / version / name)
    for tried in (trial(tmp_path), FileCheck(ModelStore(tmp_path))):
        with pytest.raises(BundleRefused, match=f"{name}: its SHA-256 is not the sealed one"):
            await tried(version)


async def test_other_errors_keep_their_kind(tmp_path: Path) -> None:
    live_store(tmp_path)
    with pytest.raises(Exception, match="no version absent") as caught:
        await trial(tmp_path)("absent")
    assert not isinstance(caught.value, BundleRefused)
    with pytest.raises(VersionNotFound):
        await FileCheck(ModelStore(tmp_path))("absent")
    keys = tmp_path / "no.pub"
    with pytest.raises(ConfigError, match=r"no\.pub cannot be read"):
        await trial(tmp_path, trusted_keys_file=str(keys))(str(ModelStore(tmp_path).live()))


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file; its size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


async def test_secrets_stay_in_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not NEEDED_SETTINGS & {"redis_url", "read_keys", "write_keys"}
    assert set(Settings.model_fields) >= NEEDED_SETTINGS
    tried = trial(tmp_path)
    monkeypatch.setenv("ETEGREC_MAX_BATCH", "0")  # would be refused there, if it were read
    assert await tried(live_store(tmp_path))


@asynccontextmanager
async def trying(folder: Path, **given: object) -> AsyncIterator[tuple[httpx.AsyncClient, Service]]:
    """Start the app as it is started for real, with trials."""
    settings = fast_settings(folder, load_trial=True, **{"load_timeout_s": LONG_S, **given})
    app = create_app(settings)
    async with running(app) as client:
        yield client, app.state.service


async def test_a_version_that_hangs_does_not_keep_the_next_one_waiting(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    store.promote(publish_search(tmp_path, slow_search(small_config())))
    async with trying(tmp_path, engine="onnx") as (_, service):
        await until(lambda: bool(trials_of(os.getpid())))
        [hanging] = trials_of(os.getpid())
        (tmp_path / "LIVE").write_bytes(b"../../etc\n")
        with structlog.testing.capture_logs() as lines:  # the poll itself waits for the trial, so it logs nothing
            await until(lambda: any(line["event"] == "store_check_failed" for line in lines))
        assert trials_of(os.getpid()) == [hanging]  # a store that cannot be read names no other version
        damaged = publish_small(store, 40)
        flip(tmp_path / damaged / "golden.json")
        (tmp_path / "LIVE").write_text(f"{damaged}\n")
        await until(lambda: metric(service, "etegrec_model_loads_total", result="refused") >= 1)
        assert hanging not in trials_of(os.getpid())
        assert f"version {damaged} could not be loaded" in service.models.problem
    assert not trials_of(os.getpid())


async def test_a_version_that_was_given_up_shows_in_readiness_and_metrics(tmp_path: Path) -> None:
    version = publish_search(tmp_path, slow_search(small_config()))
    ModelStore(tmp_path).promote(version)
    async with trying(tmp_path, engine="onnx", load_timeout_s=5) as (client, service):
        await until(lambda: metric(service, "etegrec_model_loads_total", result="timeout") == 1)
        ready = await client.get("/health/ready")
        await asyncio.sleep(0.3)
        assert not trials_of(os.getpid())  # it rests before it is tried again
    assert ready.status_code == 503
    assert f"version {version} was given up after 5 s; see the service's log" in ready.text


async def test_the_trial_is_the_default_and_is_left_out_for_engines_of_ones_own(tmp_path: Path) -> None:
    live_store(tmp_path)
    assert Settings().load_trial
    store = open_store(None, tmp_path / "events", history_cap=10, half_lives_s=(1,))
    usual = create_app(fast_settings(tmp_path, load_trial=True), store=store).state.service.models
    own = create_app(fast_settings(tmp_path, load_trial=True), store=store, coders=lambda *_: KnownItemsOnly())
    off = create_app(fast_settings(tmp_path), store=store).state.service.models
    assert isinstance(usual._loader.trial, ProcessTrial)
    assert isinstance(own.state.service.models._loader.trial, FileCheck)
    assert isinstance(off._loader.trial, FileCheck)
    await store.close()


async def test_a_version_that_is_exchanged_after_its_trial_is_refused(tmp_path: Path) -> None:
    version = live_store(tmp_path)
    app = create_app(fast_settings(tmp_path))

    async def passed(_: str) -> Tried:
        return Tried("0" * 64, 0)

    models = app.state.service.models
    models._loader.trial = passed
    async with running(app):
        await until(lambda: "could not be loaded" in models.problem)
        assert metric(app.state.service, "etegrec_model_loads_total", result="refused") >= 1
        models._loader.trial = FileCheck(ModelStore(tmp_path))
        await until(lambda: models.current is not None)
        assert models.current.version == version


@pytest.mark.parametrize("name", ["weights.safetensors", "tokenizer.onnx", "report/index.md"])
async def test_a_damaged_file_that_serving_never_reads_keeps_the_version_out(tmp_path: Path, name: str) -> None:
    first = live_store(tmp_path, 0)
    async with serving(tmp_path) as (client, service):
        second = publish_small(ModelStore(tmp_path), 1)
        flip(tmp_path / second / name)
        (tmp_path / "LIVE").write_text(f"{second}\n{first}\n")
        await until(lambda: metric(service, "etegrec_model_loads_total", result="refused") >= 1)
        ready = (await client.get("/health/ready")).json()
        assert ready["problem"] == f"version {second} could not be loaded; see the service's log"
        assert loaded_model(service).version == first


async def test_an_item_encoder_that_this_machine_refuses_shows(tmp_path: Path) -> None:
    """The small bundle's graphs are intact, and ONNX Runtime cannot run them."""
    version = live_store(tmp_path)
    bundle = ModelStore(tmp_path).bundle()
    coder = open_coder(bundle, Settings(engine="onnx"))
    assert isinstance(coder, KnownItemsOnly)
    assert coder.is_refused

    app = create_app(fast_settings(tmp_path), coders=lambda *_: coder)
    service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        for _ in range(2):  # polls that follow do not forget it
            await service.models.poll()
            ready = (await client.get("/health/ready")).json()
            assert ready["problem"] == f"version {version} {LACKING['item_encoder']}; see the service's log"
        assert metric(service, "etegrec_model_part_refused", part="item_encoder") == 1
        assert metric(service, "etegrec_model_part_refused", part="reduced_precision") == 0


async def test_a_damaged_item_encoder_is_no_version_without_one(tmp_path: Path) -> None:
    version = live_store(tmp_path)
    flip(tmp_path / version / "tokenizer.onnx")
    with pytest.raises(BundleRefused, match=r"tokenizer\.onnx: its SHA-256"):
        open_coder(ModelStore(tmp_path).bundle(), Settings(engine="onnx"))


def test_sigterm_ends_the_service_while_a_version_hangs(tmp_path: Path) -> None:
    ModelStore(tmp_path).promote(publish_search(tmp_path, slow_search(small_config())))
    port = free_port()
    settings = {"STORE": str(tmp_path), "PORT": str(port), "RELOAD_S": "0.05", "SHUTDOWN_DELAY_S": "0"}
    environment = {**os.environ, **{f"ETEGREC_{name}": value for name, value in settings.items()}}
    command = [sys.executable, "-m", "service"]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: is_live(f"http://127.0.0.1:{port}"))
            wait_until(lambda: len(trials_of(process.pid)) == 1)
            [hanging] = trials_of(process.pid)
            time.sleep(3)  # by now the graph is open
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
    wait_until(lambda: not is_running(hanging))


def is_running(process: int) -> bool:
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return False


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def is_live(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live").status_code == 200
    except httpx.TransportError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


async def test_the_service_loads_what_trusted_keys_signed_and_keeps_what_it_has(tmp_path: Path) -> None:
    _, public = create_keys(tmp_path / "key")
    key = SigningKey.load(tmp_path / "key")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(public.read_bytes())

    folder = tmp_path / "models"
    store = ModelStore(folder)
    versions = [publish(store, bundle_files(n), description(), NOON.replace(minute=n), key) for n in range(2)]
    unsigned = publish_small(store, 2)
    store.promote(versions[0])
    async with trying(folder, trusted_keys_file=str(trusted)) as (client, service):
        await until(lambda: service.models.current is not None)
        store.promote(unsigned)
        await until(lambda: metric(service, "etegrec_model_loads_total", result="refused") >= 1)
        assert f"version {unsigned} could not be loaded" in (await client.get("/health/ready")).json()["problem"]

        create_keys(tmp_path / "other")
        trusted.write_bytes((tmp_path / "other.pub").read_bytes())  # the first key is revoked while the service runs
        store.promote(versions[1])
        await until(lambda: versions[1] in service.models.problem)
        assert loaded_model(service).version == versions[0]

        trusted.write_bytes(public.read_bytes())
        await until(lambda: loaded_model(service).version == versions[1])
        assert service.models.problem == ""


def test_a_service_without_its_trusted_keys_does_not_start(tmp_path: Path) -> None:
    live_store(tmp_path)
    with pytest.raises(ConfigError, match=r"absent\.pem cannot be read"):
        create_app(fast_settings(tmp_path, trusted_keys_file=str(tmp_path / "absent.pem")))
