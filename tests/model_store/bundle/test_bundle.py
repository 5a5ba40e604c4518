"""Sealed versions: whatever is changed in their folder is refused, and what is handed out was checked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from model_store.bundle.bundle import Bundle, load_bundle
from model_store.bundle.parts import CODE_NAMES
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import EVERYONE
from model_store.bundle.vector_file import EMBEDDINGS
from model_store.errors import BundleRefused, VersionNotFound
from tests.support.bundles import (
    bundle_files,
    publish_small,
    small_catalogue,
    small_config,
    small_goldens,
)

FILES = sorted(bundle_files())
ALL_FILES = [*FILES, "manifest.json"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A store with two versions that no test changes."""
    root = tmp_path_factory.mktemp("pristine")
    store = ModelStore(root)
    return root, publish_small(store, 0), publish_small(store, 1)


@pytest.fixture
def stored(pristine: tuple[Path, str, str], tmp_path: Path) -> tuple[Path, str, str]:
    """A copy to damage: the root and its two versions."""
    root, first, second = pristine
    shutil.copytree(root, tmp_path / "models")
    return tmp_path / "models", first, second


def refusal(root: Path, version: str) -> BundleRefused:
    """Return the error that refuses the version, on opening it or at the latest on reading all of it."""
    with pytest.raises(BundleRefused) as caught:
        load_bundle(str(root), version, EVERYONE).verify()
    assert caught.value.hint
    return caught.value


def test_an_intact_bundle_gives_everything(pristine: tuple[Path, str, str]) -> None:
    root, version, _ = pristine
    bundle, files = load_bundle(str(root), version, EVERYONE), bundle_files(0)
    bundle.verify()
    assert {name: bundle.read(name) for name in FILES} == files
    assert bundle.version == version
    assert bundle.config == small_config()
    assert bundle.catalogue().item_ids == small_catalogue(0).item_ids
    assert bundle.goldens() == tuple(small_goldens(small_catalogue(0), 0))
    np.testing.assert_equal(bundle.weights(), safetensors.numpy.load(files["weights.safetensors"]))
    np.testing.assert_equal(bundle.embeddings(), safetensors.numpy.load(files["embeddings.safetensors"]))
    assert bundle.code_names().to_parquet() == files[CODE_NAMES]
    assert "search.onnx" in bundle
    assert "content.onnx" not in bundle


@pytest.mark.parametrize("where", [0.0, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("name", ALL_FILES)
def test_a_flipped_bit_is_refused(stored: tuple[Path, str, str], name: str, where: float) -> None:
    root, version, _ = stored
    path = root / version / name
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1 << int(where * 7)
    path.write_bytes(data)
    assert name in str(refusal(root, version))


@pytest.mark.parametrize("kept", [0.0, 0.5, "all but one byte"])
@pytest.mark.parametrize("name", ALL_FILES)
def test_a_truncated_file_is_refused(stored: tuple[Path, str, str], name: str, kept: float | str) -> None:
    root, version, _ = stored
    path = root / version / name
    size = path.stat().st_size
    os.truncate(path, size - 1 if isinstance(kept, str) else int(size * kept))
    assert name in str(refusal(root, version))


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_lengthened_file_is_refused(stored: tuple[Path, str, str], name: str) -> None:
    root, version, _ = stored
    with (root / version / name).open("ab") as file:
        file.write(b"\n")
    assert name in str(refusal(root, version))


@pytest.mark.parametrize("name", FILES)
def test_a_removed_file_is_refused(stored: tuple[Path, str, str], name: str) -> None:
    root, version, _ = stored
    (root / version / name).unlink()
    assert f"{name}: missing" in str(refusal(root, version))


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_file_of_another_version_is_refused(stored: tuple[Path, str, str], name: str) -> None:
    root, version, other = stored
    shutil.copyfile(root / other / name, root / version / name)
    assert name in str(refusal(root, version))


def test_a_folder_of_another_name_is_refused(stored: tuple[Path, str, str]) -> None:
    root, version, other = stored
    shutil.rmtree(root / other)
    (root / version).rename(root / other)
    assert f"manifest.json: belongs to version {version}" in str(refusal(root, other))


@pytest.mark.parametrize("name", ["model.pkl", "content.onnx", "report/more.md", ".hidden", "sub/file"])
def test_an_added_file_is_refused(stored: tuple[Path, str, str], name: str) -> None:
    root, version, _ = stored
    (root / version / name).parent.mkdir(exist_ok=True)
    (root / version / name).write_bytes(b"surprise")
    assert f"{name}: does not belong to the bundle" in str(refusal(root, version))


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_link_is_refused_even_to_the_right_bytes(stored: tuple[Path, str, str], name: str, tmp_path: Path) -> None:
    root, version, _ = stored
    path = root / version / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert f"{name}: is not a plain file" in str(refusal(root, version))


def test_a_linked_folder_is_refused(stored: tuple[Path, str, str], tmp_path: Path) -> None:
    root, version, _ = stored
    (root / version).rename(tmp_path / "elsewhere")
    (root / version).symlink_to(tmp_path / "elsewhere")
    assert "is not a folder" in str(refusal(root, version))


def test_a_linked_report_folder_is_refused(stored: tuple[Path, str, str], tmp_path: Path) -> None:
    root, version, _ = stored
    (root / version / "report").rename(tmp_path / "elsewhere")
    (root / version / "report").symlink_to(tmp_path / "elsewhere")
    assert "report: is not a plain file" in str(refusal(root, version))


def test_a_pipe_is_refused_without_waiting_for_it(stored: tuple[Path, str, str]) -> None:
    root, version, _ = stored
    (root / version / "search.onnx").unlink()
    os.mkfifo(root / version / "search.onnx")
    assert "search.onnx: is not a plain file" in str(refusal(root, version))


def test_a_folder_in_place_of_a_file_is_refused(stored: tuple[Path, str, str]) -> None:
    root, version, _ = stored
    (root / version / "search.onnx").unlink()
    (root / version / "search.onnx").mkdir()
    assert "search.onnx: missing" in str(refusal(root, version))


def test_the_bytes_handed_out_are_the_bytes_checked(stored: tuple[Path, str, str]) -> None:
    """Opened while intact, damaged afterwards: each read checks anew."""
    root, version, _ = stored
    bundle = load_bundle(str(root), version, EVERYONE)
    path = root / version / "search.onnx"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(BundleRefused, match=r"search\.onnx: its SHA-256"):
        bundle.read("search.onnx")
    path.write_bytes(b"x" * 1000)
    with pytest.raises(BundleRefused, match=r"search\.onnx: holds more than 200 bytes instead of 200"):
        bundle.read("search.onnx")
    path.unlink()
    with pytest.raises(BundleRefused, match=r"search\.onnx: missing"):
        bundle.read("search.onnx")


def test_vectors_are_handed_out_only_if_every_byte_of_their_file_is_the_sealed_one(
    stored: tuple[Path, str, str],
) -> None:
    root, version, _ = stored
    bundle = load_bundle(str(root), version, EVERYONE)
    path = root / version / EMBEDDINGS
    whole = path.read_bytes()
    for at in (0, 9, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        for read in (bundle.vectors, bundle.catalogue):
            with pytest.raises(BundleRefused, match=r"embeddings\.safetensors: its SHA-256"):
                read()

    path.write_bytes(whole + b"x")
    with pytest.raises(BundleRefused, match=r"embeddings\.safetensors: holds more than"):
        bundle.vectors()
    path.unlink()
    with pytest.raises(BundleRefused, match=r"embeddings\.safetensors: missing"):
        bundle.vectors()


def test_only_sealed_names_can_be_read(pristine: tuple[Path, str, str]) -> None:
    root, version, other = pristine
    for name in ("content.onnx", f"../{other}/search.onnx", "manifest.json"):
        with pytest.raises(BundleRefused, match="no such file"):
            load_bundle(str(root), version, EVERYONE).read(name)


@pytest.mark.parametrize("version", ["", ".", "..", "../models", "Absent", "absent", "a/b", "x" * 100, "LIVE"])
def test_a_version_that_is_none_is_not_found(pristine: tuple[Path, str, str], version: str) -> None:
    with pytest.raises(VersionNotFound) as caught:
        load_bundle(str(pristine[0]), version, EVERYONE)
    assert caught.value.exit_code == 6


def test_a_folder_without_its_seal_is_no_version(stored: tuple[Path, str, str]) -> None:
    root, version, _ = stored
    (root / version / "manifest.json").unlink()
    with pytest.raises(VersionNotFound, match="never sealed"):
        load_bundle(str(root), version, EVERYONE)
    assert version not in ModelStore(root).versions()


def test_reading_bundles_needs_no_torch(pristine: tuple[Path, str, str]) -> None:
    root, version, _ = pristine
    code = (
        "import sys; from model_store.bundle.registry import ModelStore; import model_store.cli;"
        f"ModelStore({str(root)!r}).bundle({version!r}).verify(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_bundle_is_a_value(pristine: tuple[Path, str, str]) -> None:
    root, version, other = pristine
    assert load_bundle(str(root), version, EVERYONE) == load_bundle(str(root), version, EVERYONE)
    assert load_bundle(str(root), version, EVERYONE) != load_bundle(str(root), other, EVERYONE)
    assert isinstance(ModelStore(root).bundle(version), Bundle)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_size_is_refused_on_opening(stored: tuple[Path, str, str], change: int) -> None:
    root, version, _ = stored
    path = root / version / "search.onnx"
    sealed = path.stat().st_size
    os.truncate(path, sealed + change)
    with pytest.raises(BundleRefused, match=rf"search\.onnx: holds {sealed + change} bytes instead of {sealed}"):
        load_bundle(str(root), version, EVERYONE)


def test_hashes_are_verified_of_every_file_without_reading_what_it_means(stored: tuple[Path, str, str]) -> None:
    root, version, _ = stored
    bundle = load_bundle(str(root), version, EVERYONE)
    bundle.verify_hashes()

    report = root / version / "report" / "index.md"
    whole = report.read_bytes()
    report.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleRefused, match=r"report/index\.md: its SHA-256 is not the sealed one"):
        bundle.verify_hashes()

    report.write_bytes(whole + b"more")
    with pytest.raises(BundleRefused, match=rf"report/index\.md: holds more than {len(whole)} bytes"):
        bundle.verify_hashes()

    report.write_bytes(whole[:-1])
    with pytest.raises(BundleRefused, match=rf"report/index\.md: holds {len(whole) - 1} bytes"):
        bundle.verify_hashes()

    report.unlink()
    with pytest.raises(BundleRefused, match=r"report/index\.md: missing"):
        bundle.verify_hashes()
