"""Damaged and forged bundles: each must be refused, by the checks and by a service that would serve it."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from benchmarks.attack.findings import Findings
from benchmarks.service_process import ServiceProcess
from model_store.bundle.key_files import create_keys
from model_store.bundle.live_file import LIVE
from model_store.bundle.manifest import MANIFEST, FileSeal, Manifest
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import SIGNATURE, SigningKey
from model_store.errors import ModelStoreError

Damage = Callable[[Path, Random], str]


def damage_bundles(store: ModelStore, version: str, work: Path, cases: int, seed: int, end: float) -> Findings:
    """Damage copies of one version and verify each; count those that are refused.

    Args:
        store: The model store, with whatever keys it trusts.
        version: Version to copy.
        work: Folder for the copies.
        cases: Number of copies; each follows from the seed and its own number.
        seed: Seed of the run.
        end: ``time.monotonic()`` after which no more are tried.
    """
    findings = Findings()
    refused = 0
    source = Path(store.url) / version
    for number in range(cases):
        if time.monotonic() > end:
            break

        random = Random(f"{seed}-bundle-{number}")
        folder = work / "copy" / version
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)

        what = random.choice(DAMAGES)(folder, random)
        is_refused = _is_refused(store, folder.parent, version)
        refused += is_refused
        findings.check(is_refused, f"seed {seed}-bundle-{number}: {what}")
    findings.facts["refused_bundles"] = [refused, findings.cases]
    return findings


def serve_damaged(service: ServiceProcess, store: ModelStore, version: str, seed: int) -> Findings:
    """Make a damaged version live behind the back of the checks: the old one must go on answering, and say so."""
    findings = Findings()
    before = json.loads(service.get("/health/ready")[1])["model_version"]
    folder = Path(store.url) / version
    kept = {name: (folder / name).read_bytes() for name in ("content.onnx", "tokenizer.onnx", "weights.safetensors")}
    live = (Path(store.url) / LIVE).read_bytes()

    for name, data in kept.items():
        random = Random(f"{seed}-{name}")
        (folder / name).write_bytes(_flip(data, random))
        (Path(store.url) / LIVE).write_bytes(f"{version}\n{before}\n".encode())

        problem = _wait_for(lambda: str(json.loads(service.get("/health/ready")[1])["problem"]))
        serving = json.loads(service.get("/health/ready")[1])["model_version"]
        findings.check(bool(problem) and serving == before, f"{name} flipped: {serving} serves, problem {problem!r}")

        (folder / name).write_bytes(data)
        (Path(store.url) / LIVE).write_bytes(live)
        _wait_for(lambda: not json.loads(service.get("/health/ready")[1])["problem"])
    return findings


def _is_refused(store: ModelStore, folder: Path, version: str) -> bool:
    try:
        ModelStore(str(folder), trust=store.trust).bundle(version).verify()
    except ModelStoreError:
        return True
    return False


def _wait_for(condition: Callable[[], object], seconds: float = 30.0) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return str(found)
        time.sleep(0.05)
    return ""


def _flip(data: bytes, random: Random) -> bytes:
    found = bytearray(data)
    found[random.randrange(len(found))] ^= 1 << random.randrange(8)
    return bytes(found)


def _pick(folder: Path, random: Random) -> Path:
    """Return any file but the signature: some bits of its text mean nothing."""
    return random.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SIGNATURE))


def _flip_bit(folder: Path, random: Random) -> str:
    path = _pick(folder, random)
    path.write_bytes(_flip(path.read_bytes(), random))
    return f"a bit of {path.name} flipped"


def _truncate(folder: Path, random: Random) -> str:
    path = _pick(folder, random)
    data = path.read_bytes()
    path.write_bytes(data[: random.randrange(len(data))])
    return f"{path.name} truncated"


def _extend(folder: Path, random: Random) -> str:
    path = _pick(folder, random)
    path.write_bytes(path.read_bytes() + random.randbytes(random.randrange(1, 100)))
    return f"{path.name} extended"


def _delete(folder: Path, random: Random) -> str:
    path = _pick(folder, random)
    path.unlink()
    return f"{path.name} deleted"


def _swap(folder: Path, random: Random) -> str:
    first = _pick(folder, random)
    second = _pick(folder, random)
    while second == first:
        second = _pick(folder, random)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    return f"{first.name} and {second.name} swapped"


def _add(folder: Path, random: Random) -> str:
    name = random.choice(("search.int8.onnx", "evil.py", "report/../x", ".hidden", "a.so"))
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(random.randbytes(20))
    return f"{name} added"


def _link(folder: Path, random: Random) -> str:
    path = _pick(folder, random)
    data = path.read_bytes()
    path.unlink()
    outside = folder.parent / "outside"
    outside.write_bytes(data)
    path.symlink_to(outside)
    return f"{path.name} is a link"


def _unsign(folder: Path, random: Random) -> str:
    path = folder / SIGNATURE
    path.unlink()
    if random.random() < 0.5:
        path.write_bytes(random.randbytes(300))
    return "the signature is gone or garbage"


def _forge(folder: Path, random: Random) -> str:
    """Change a file and seal it again, as an attacker who can write to the model store would."""
    path = _pick(folder, random)
    while path.name == MANIFEST:
        path = _pick(folder, random)
    path.write_bytes(_flip(path.read_bytes(), random))

    manifest = Manifest.from_bytes((folder / MANIFEST).read_bytes())
    name = path.relative_to(folder).as_posix()
    seals = {**manifest.files, name: FileSeal.of(path.read_bytes())}
    (folder / MANIFEST).write_bytes(manifest.model_copy(update={"files": seals}).to_bytes())
    return f"{path.name} changed and sealed again"


def _forge_signed(folder: Path, random: Random) -> str:
    """Forge, and sign with a key that nobody trusts."""
    what = _forge(folder, random)
    with tempfile.TemporaryDirectory() as stranger:
        private = Path(stranger) / "key.pem"
        create_keys(private)
        signature = SigningKey.load(private).sign((folder / MANIFEST).read_bytes())
    (folder / SIGNATURE).write_bytes(signature)
    return f"{what}, signed by a stranger"


DAMAGES: tuple[Damage, ...] = (
    _flip_bit,
    _flip_bit,
    _truncate,
    _extend,
    _delete,
    _swap,
    _add,
    _link,
    _unsign,
    _forge,
    _forge_signed,
)
