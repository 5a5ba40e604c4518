"""Only versions that a trusted key signed are opened, promoted and rolled back to, once keys are configured."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from model_store.bundle.bundle import load_bundle
from model_store.bundle.key_files import create_keys, read_private_key
from model_store.bundle.manifest import FileSeal, Manifest
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import EVERYONE, MAX_SIGNATURES, SIGNATURE, SigningKey, Trust
from model_store.errors import BundleRefused, ConfigError, SignatureRefused
from tests.support.bundles import NOON, bundle_files, description, publish_small


class Publisher:
    """A key in files of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.private = folder / name
        self.name, self.public = create_keys(self.private)
        self.key = SigningKey.load(self.private)


@pytest.fixture
def alice(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path, "alice")


@pytest.fixture
def bob(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path, "bob")


def trust_in(folder: Path, *publishers: Publisher) -> Trust:
    """Write a file of trusted keys; a later call replaces it."""
    path = folder / "trusted.pem"
    path.write_text("".join(each.public.read_text() for each in publishers))
    return Trust(path)


def publish_signed(store: ModelStore, key: SigningKey | None, seed: int = 0) -> str:
    return publish(store, bundle_files(seed), description(), NOON.replace(minute=seed), key)


def reseal(folder: Path, version: str, **changed: bytes) -> None:
    """Exchange files of a version and seal it again, as anybody who may write there can."""
    bundle = load_bundle(str(folder), version, EVERYONE)
    seals = dict(bundle.manifest.files)
    for stem, data in changed.items():
        name = next(each for each in seals if each.startswith(stem))
        (folder / version / name).write_bytes(data)
        seals[name] = FileSeal.of(data)
    sealed = bundle.manifest.model_copy(update={"files": seals})
    (folder / version / "manifest.json").write_bytes(sealed.to_bytes())


def test_a_version_that_was_sealed_again_after_tampering_is_refused(tmp_path: Path, alice: Publisher) -> None:
    folder = tmp_path / "models"
    version = publish_signed(ModelStore(folder), alice.key)
    trusting = ModelStore(folder, trust=trust_in(tmp_path, alice))
    assert trusting.bundle(version).signed_by == alice.name

    reseal(folder, version, catalogue=bundle_files(1)["catalogue.parquet"], golden=bundle_files(1)["golden.json"])
    ModelStore(folder).bundle(version).verify()  # nothing about the bundle itself is wrong
    with pytest.raises(SignatureRefused, match=rf"version {version} refused: .*by {alice.name} is not of this mani"):
        trusting.bundle(version)


def test_every_bit_of_the_manifest_and_of_the_signature_counts(tmp_path: Path, alice: Publisher) -> None:
    trust = trust_in(tmp_path, alice)
    manifest = b'{"a":1}'
    signatures = alice.key.sign(manifest)
    assert trust.find_signer(manifest, signatures) == alice.name

    for bit in range(len(manifest) * 8):
        with pytest.raises(SignatureRefused):
            trust.find_signer(flipped(manifest, bit), signatures)

    content = json.loads(signatures)
    signature = base64.b64decode(content["signatures"][0]["signature"])
    for bit in range(len(signature) * 8):
        content["signatures"][0]["signature"] = base64.b64encode(flipped(signature, bit)).decode()
        with pytest.raises(SignatureRefused, match="is not of this manifest"):
            trust.find_signer(manifest, json.dumps(content).encode())


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_signature_of_the_bare_manifest_does_not_count(tmp_path: Path, alice: Publisher) -> None:
    """What the key signs for another purpose is not a signature of a manifest."""
    private = read_private_key(alice.private)
    assert isinstance(private, Ed25519PrivateKey)
    content = json.loads(alice.key.sign(b"manifest"))
    for signed in (b"manifest", b"etegrec-manifest-signature-v2\0manifest", b"etegrec-manifest-signature-v1manifest"):
        content["signatures"][0]["signature"] = base64.b64encode(private.sign(signed)).decode()
        with pytest.raises(SignatureRefused):
            trust_in(tmp_path, alice).find_signer(b"manifest", json.dumps(content).encode())


def test_a_signed_version_under_the_name_of_another_is_refused(tmp_path: Path, alice: Publisher) -> None:
    folder = tmp_path / "models"
    old, new = (publish_signed(ModelStore(folder), alice.key, seed) for seed in (0, 1))
    shutil.rmtree(folder / new)
    shutil.copytree(folder / old, folder / new)
    with pytest.raises(BundleRefused, match=f"belongs to version {old}"):
        ModelStore(folder, trust=trust_in(tmp_path, alice)).bundle(new)


@pytest.mark.parametrize("url", ["folder", "memory"])
def test_promotion_and_rollback_need_a_trusted_signature(
    tmp_path: Path, alice: Publisher, bob: Publisher, url: str
) -> None:
    place = str(tmp_path / "models") if url == "folder" else f"memory://signed-{uuid.uuid4().hex}"
    anyone = ModelStore(place)
    unsigned, strange, good = (publish_signed(anyone, key, n) for n, key in enumerate((None, bob.key, alice.key)))
    anyone.promote(unsigned)

    trusting = ModelStore(place, trust=trust_in(tmp_path, alice))
    with pytest.raises(SignatureRefused, match=r"manifest\.sig: missing, and only signed versions are trusted here"):
        trusting.promote(unsigned)
    with pytest.raises(SignatureRefused, match=f"signed by {bob.name}, which is not trusted here"):
        trusting.promote(strange)
    assert trusting.promote(good) == unsigned
    with pytest.raises(SignatureRefused, match="missing"):
        trusting.rollback()
    assert trusting.live() == good

    trusting.sign(unsigned, alice.key)
    assert trusting.rollback() == unsigned
    assert trusting.bundle().signed_by == alice.name


def test_keys_change_without_a_pause(tmp_path: Path, alice: Publisher, bob: Publisher) -> None:
    """Sign again, let services trust both, then only the new one: the file is read each time."""
    store = ModelStore(tmp_path / "models", trust=trust_in(tmp_path, alice))
    version = publish_signed(store, alice.key)
    store.promote(version)
    store.sign(version, bob.key)
    assert store.bundle().signers == [alice.name, bob.name]
    for trusted, by in (((alice,), alice), ((alice, bob), alice), ((bob,), bob)):
        trust_in(tmp_path, *trusted)
        assert store.bundle().signed_by == by.name
    assert store.trust.is_limited

    store.sign(version, bob.key)  # again: one signature a key
    assert store.bundle().signers == [alice.name, bob.name]
    trust_in(tmp_path, Publisher(tmp_path, "carol"))
    with pytest.raises(SignatureRefused, match=f"signed by {alice.name}, {bob.name}, which is not trusted"):
        store.bundle()


def test_signing_verifies_first_and_leaves_nothing_behind(tmp_path: Path, alice: Publisher) -> None:
    store = ModelStore(tmp_path / "models")
    version = publish_small(store)
    path = tmp_path / "models" / version / "search.onnx"
    whole = path.read_bytes()
    path.write_bytes(flipped(whole, 100))
    with pytest.raises(BundleRefused, match=r"search\.onnx: its SHA-256"):
        store.sign(version, alice.key)
    assert not (tmp_path / "models" / version / SIGNATURE).exists()

    path.write_bytes(whole)
    store.sign(version, alice.key)
    store.bundle(version).verify()
    assert {entry.name for entry in (tmp_path / "models").iterdir()} == {version, ".lock"}


def test_as_many_keys_as_a_file_holds(alice: Publisher) -> None:
    signatures = None
    for _ in range(MAX_SIGNATURES):
        private = Ed25519PrivateKey.generate()
        signatures = SigningKey(os.urandom(8).hex(), private).sign(b"manifest", signatures)
    with pytest.raises(SignatureRefused, match="holds 16 signatures already"):
        alice.key.sign(b"manifest", signatures)


DAMAGES: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"signed, honestly", "manifest.sig: Invalid JSON"),
    "no signature": (b'{"format":"etegrec-manifest-signature-v1","signatures":[]}', "signatures: Tuple should have at"),
    "another format": (
        b'{"format":"v2","signatures":[{"key":"0123456789abcdef","signature":""}]}',
        "format: Input",
    ),
    "more": (b'{"format":"etegrec-manifest-signature-v1","signatures":[],"key":1}', "manifest.sig: "),
    "too large": (b" " * 20_000, "manifest.sig: larger than 16384 bytes"),
    "deep": (b"[" * 10_000, "manifest.sig: "),
}


@pytest.mark.parametrize(("content", "problem"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_of_signatures_is_refused(
    tmp_path: Path, alice: Publisher, content: bytes, problem: str
) -> None:
    version = publish_signed(ModelStore(tmp_path / "models"), alice.key)
    (tmp_path / "models" / version / SIGNATURE).write_bytes(content)
    with pytest.raises(SignatureRefused) as caught:
        ModelStore(tmp_path / "models", trust=trust_in(tmp_path, alice)).bundle(version)
    assert problem in str(caught.value)
    ModelStore(tmp_path / "models").bundle(version).verify()  # nobody looks at it where no keys are trusted


def test_a_signature_that_is_a_link_is_refused(tmp_path: Path, alice: Publisher) -> None:
    version = publish_signed(ModelStore(tmp_path / "models"), alice.key)
    path = tmp_path / "models" / version / SIGNATURE
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleRefused, match="is not a plain file"):
        ModelStore(tmp_path / "models").bundle(version)


def test_whoever_opens_a_bundle_says_whom_to_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = publish_small(ModelStore(tmp_path / "models"))
    with pytest.raises(TypeError, match="trust"):
        load_bundle(str(tmp_path / "models"), version)  # type: ignore[call-arg]

    publisher = Publisher(tmp_path, "alice")
    monkeypatch.setenv("ETEGREC_TRUSTED_KEYS_FILE", str(publisher.public))
    with pytest.raises(SignatureRefused):
        ModelStore(tmp_path / "models").bundle(version)  # no argument: the environment decides


def test_what_is_signed_is_the_manifest_as_stored(tmp_path: Path, alice: Publisher) -> None:
    version = publish_signed(ModelStore(tmp_path / "models"), alice.key)
    stored = (tmp_path / "models" / version / "manifest.json").read_bytes()
    assert Manifest.from_bytes(stored).to_bytes() == stored
    assert alice.key.sign(stored) == (tmp_path / "models" / version / SIGNATURE).read_bytes()


def test_keys_are_created_for_this_user_alone_and_never_overwritten(tmp_path: Path) -> None:
    private = tmp_path / "signing.pem"
    before = os.umask(0)
    try:
        name, public = create_keys(private)
    finally:
        os.umask(before)
    assert private.stat().st_mode & 0o777 == 0o600
    assert public == tmp_path / "signing.pem.pub"
    assert public.read_text().startswith(f"# {name}\n-----BEGIN PUBLIC KEY-----\n")
    assert "PRIVATE" not in public.read_text()
    content = private.read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        create_keys(private)
    assert private.read_bytes() == content


@pytest.mark.parametrize(("mode", "is_refused"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_a_private_key_that_everyone_can_read_is_refused(alice: Publisher, mode: int, is_refused: bool) -> None:
    alice.private.chmod(mode)
    if is_refused:
        with pytest.raises(ConfigError, match="is open to every user") as caught:
            SigningKey.load(alice.private)
        assert caught.value.hint.startswith("chmod 600")
    else:
        assert SigningKey.load(alice.private).name == alice.name


WRONG_KEYS: dict[str, tuple[Callable[[Publisher], bytes], str]] = {
    "nothing": (lambda _: b"", "no unencrypted private key"),
    "the public one": (lambda publisher: publisher.public.read_bytes(), "no unencrypted private key"),
    "too large": (lambda _: b" " * 100_000, "larger than 65536 bytes"),
}


@pytest.mark.parametrize(("make", "problem"), WRONG_KEYS.values(), ids=WRONG_KEYS.keys())
def test_a_file_that_is_no_private_key_is_refused(
    alice: Publisher, make: Callable[[Publisher], bytes], problem: str
) -> None:
    alice.private.write_bytes(make(alice))
    with pytest.raises(ConfigError, match=problem):
        SigningKey.load(alice.private)


WRONG_TRUST: dict[str, tuple[Callable[[str], str], str]] = {
    "nothing": (lambda _: "", "holds no key"),
    "only comments": (lambda _: "# nobody yet\n", "holds no key"),
    "a typing error": (lambda text: text.replace("END PUBLIC", "EMD PUBLIC"), "something that is no public key"),
    "a second, damaged one": (lambda text: text + text.replace("MCow", "MCoX"), "holds a damaged key"),
    "a private key": (lambda text: text.replace("PUBLIC", "PRIVATE"), "something that is no public key"),
    "prose": (lambda text: text + "trust me\n", "something that is no public key"),
}


@pytest.mark.parametrize(("make", "problem"), WRONG_TRUST.values(), ids=WRONG_TRUST.keys())
def test_a_file_of_trusted_keys_with_a_mistake_trusts_nobody(
    tmp_path: Path, alice: Publisher, make: Callable[[str], str], problem: str
) -> None:
    path = tmp_path / "trusted.pem"
    path.write_text(make(alice.public.read_text()))
    with pytest.raises(ConfigError, match=problem) as caught:
        Trust(path).check()
    assert caught.value.hint
    with pytest.raises(ConfigError):
        Trust(path).find_signer(b"manifest", alice.key.sign(b"manifest"))


def test_a_missing_file_of_trusted_keys_trusts_nobody(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Trust.at(str(tmp_path / "absent")).check()
    assert Trust.at("") is EVERYONE


def test_who_could_not_be_promoted_is_told_before_training(tmp_path: Path, alice: Publisher, bob: Publisher) -> None:
    trust = trust_in(tmp_path, alice)
    trust.check_publisher(alice.key)
    EVERYONE.check_publisher(None)
    with pytest.raises(ConfigError, match="there is no key to sign with"):
        trust.check_publisher(None)
    with pytest.raises(ConfigError, match=f"the signing key {bob.name} is not among the trusted keys"):
        trust.check_publisher(bob.key)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_makes_the_same_kinds_of_files(tmp_path: Path) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    for command in (
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(private)],
        ["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    private.chmod(0o600)
    key = SigningKey.load(private)
    assert Trust(public).find_signer(b"manifest", key.sign(b"manifest")) == key.name
