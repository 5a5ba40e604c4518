from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from model_store.bundle.bundle import (
    CODE_NAMES,
    NEIGHBOURS,
    RANKER,
    Bundle,
    check_contents,
    load_bundle,
    read_catalogue,
    read_neighbours,
    read_ranker,
)
from model_store.bundle.golden import goldens_to_json
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import EVERYONE
from model_store.bundle.vector_file import EMBEDDINGS, VECTORS
from model_store.catalogue.code_names import CodeNames
from model_store.errors import BundleRefused, VersionNotFound
from model_store.search.fusion import Fusion
from model_store.search.neighbours import Neighbours
from model_store.search.item_words import ItemWords
from model_store.search.ranker import FEATURES, CandidateFeatures, Ranker
from tests.support.bundles import (
    NOON,
    bundle_files,
    description,
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


Files = dict[str, bytes]


def with_catalogue(**changes: int) -> Callable[[], Files]:
    return lambda: bundle_files() | {"catalogue.parquet": small_catalogue(**changes).to_parquet()}


def with_vectors(vectors: np.ndarray) -> Callable[[], Files]:
    """Content with such item vectors."""
    return lambda: bundle_files() | {EMBEDDINGS: safetensors.numpy.save({VECTORS: vectors})}


def unit_vectors(items: int = 40, width: int = 256) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(items, width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def with_collision() -> Files:
    catalogue = small_catalogue()
    catalogue.codes[1] = catalogue.codes[0]
    return bundle_files() | {"catalogue.parquet": catalogue.to_parquet()}


CONTRADICTIONS: dict[str, tuple[Callable[[], Files], str]] = {
    "two items share a semantic ID": (with_collision, "catalogue.parquet: items in rows 0 and 1 share"),
    "more codes than the config": (with_catalogue(levels=4), "catalogue.parquet: items have 4 codes"),
    "another code range": (with_catalogue(codebook_size=16), "catalogue.parquet: codes range to 16"),
    "no catalogue": (lambda: bundle_files() | {"catalogue.parquet": b"PAR1"}, "catalogue.parquet: "),
    "unknown golden item": (
        lambda: bundle_files() | {"golden.json": goldens_to_json(small_goldens(small_catalogue(items=80), count=20))},
        "golden.json: golden 0 names 'item-",
    ),
    "no goldens": (lambda: bundle_files() | {"golden.json": b"[]"}, "golden.json: "),
    "no tensors": (lambda: bundle_files() | {"weights.safetensors": safetensors.numpy.save({})}, "weights.safetensors"),
    "a pickle": (lambda: bundle_files() | {"weights.safetensors": b"\x80\x04N."}, "weights.safetensors: does not"),
    "embeddings": (lambda: bundle_files() | {"embeddings.safetensors": b"{}" * 9}, "embeddings.safetensors: does not"),
    "vectors of other items": (with_vectors(unit_vectors(39)), "catalogue.parquet: catalogue columns differ in length"),
    "vectors of another width": (with_vectors(unit_vectors(width=8)), "embeddings.safetensors: vectors are F32 of"),
    "vectors of another type": (with_vectors(unit_vectors().astype(np.float64)), "embeddings.safetensors: vectors are"),
    "vectors of any length": (
        with_vectors(2 * unit_vectors()),
        "embeddings.safetensors: a row of vectors does not",
    ),
    "vectors that are NaN": (with_vectors(unit_vectors() * np.float32("nan")), "embeddings.safetensors: a row of vect"),
    "names of other prefixes": (
        lambda: bundle_files() | {CODE_NAMES: CodeNames.of(np.array([[7, 7]]), ["Drama"]).to_parquet()},
        "code_names.parquet: the prefix 7-7 has a name, but no items below it",
    ),
    "no names": (lambda: bundle_files() | {CODE_NAMES: b"PAR1"}, "code_names.parquet: does not decode"),
    "no graph": (lambda: bundle_files() | {"search.onnx": b""}, "search.onnx: holds no graph"),
}


@pytest.mark.parametrize(("make", "problem"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_contents_that_contradict_are_refused(make: Callable[[], Files], problem: str) -> None:
    files = make()
    with pytest.raises(BundleRefused) as caught:
        check_contents(files.__getitem__, files, small_config())
    assert str(caught.value).startswith(problem)


def test_vectors_come_with_the_catalogue_and_fused_answers_need_them() -> None:
    fusion, files = Fusion(weight=2.0, candidates=20), with_vectors(unit_vectors())()
    check_contents(files.__getitem__, files, small_config(), fusion)
    catalogue = read_catalogue(files.__getitem__, small_config(), fusion)
    np.testing.assert_array_equal(catalogue.vectors, unit_vectors())
    without = bundle_files()
    assert read_catalogue(without.__getitem__, small_config()).vectors is None
    with pytest.raises(BundleRefused, match=r"embeddings\.safetensors: lacks vectors"):
        check_contents(without.__getitem__, without, small_config(), fusion)
    shape = small_config().recommender.model_copy(update={"history_tokens": "vector"})
    reader = small_config().model_copy(update={"recommender": shape})
    with pytest.raises(BundleRefused, match=r"embeddings\.safetensors: lacks vectors, which history_tokens"):
        check_contents(without.__getitem__, without, reader)


def with_neighbours(items: int) -> Files:
    """A memory in which item 1 is the neighbour of item 0."""
    start = np.repeat([0, 1], [1, items]).astype(np.int64)
    known = Neighbours(start, np.array([1], dtype=np.int32), np.array([0.5], dtype=np.float32), 0.6, items, False)
    return with_vectors(unit_vectors())() | {NEIGHBOURS: safetensors.numpy.save(known.arrays())}


def test_a_memory_of_neighbours_is_read_and_checked() -> None:
    fusion, items = Fusion(weight=2.0, candidates=20, neighbours=0.02), len(unit_vectors())
    for known in (items, items - 2):  # items that the filters left out of training are in the catalogue, too
        files = with_neighbours(known)
        check_contents(files.__getitem__, files, small_config(), fusion)
        memory = read_neighbours(files.__getitem__, files, fusion)
        assert memory is not None
        assert memory.neighbour.tolist() == [1]
    wrong, problem = with_neighbours(items + 1), f"knows {items + 1} items, the catalogue has {items}"
    with pytest.raises(BundleRefused, match=problem):
        check_contents(wrong.__getitem__, wrong, small_config(), fusion)
    without = with_vectors(unit_vectors())()
    with pytest.raises(BundleRefused, match=r"neighbours\.safetensors: missing, which fusion\.neighbours 0\.02 needs"):
        check_contents(without.__getitem__, without, small_config(), fusion)


def with_ranker(items: int, content_dim: int = 0) -> Files:
    """A ranker that corrects nothing, of the first items of the catalogue."""
    width = len(FEATURES)
    reader = CandidateFeatures(np.zeros(items, dtype=np.float32), content_dim, ItemWords.nothing(items))
    one, nothing = np.ones(width, dtype=np.float32), np.zeros((1, width), dtype=np.float32)
    ranker = Ranker(reader, one, one, (nothing,), (np.zeros(1, dtype=np.float32),), untrained=0.0)
    return with_vectors(unit_vectors())() | {RANKER: safetensors.numpy.save(ranker.arrays())}


def test_a_ranker_is_read_and_checked() -> None:
    fusion, items = Fusion(weight=2.0, candidates=20), len(unit_vectors())
    for known in (items, items - 2):
        files = with_ranker(known)
        check_contents(files.__getitem__, files, small_config(), fusion)
        ranker = read_ranker(files.__getitem__, files, small_config())
        assert ranker is not None
        assert ranker.items == known
    for wrong, problem in (
        (with_ranker(items + 1), f"ranker.safetensors: knows {items + 1} items, the catalogue has {items}"),
        (with_ranker(items, content_dim=3), "ranker.safetensors: content_dim is 3, the config says 0"),
        (with_ranker(items) | {RANKER: safetensors.numpy.save({"mean": np.zeros(1)})}, "ranker: 'log_popularity'"),
    ):
        with pytest.raises(BundleRefused, match=problem):
            check_contents(wrong.__getitem__, wrong, small_config(), fusion)
    without = with_vectors(unit_vectors())()
    assert read_ranker(without.__getitem__, without, small_config()) is None


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


def test_a_bundle_gives_its_vectors_and_neighbours(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    files = with_neighbours(len(unit_vectors()))
    told = description().model_copy(update={"fusion": Fusion(weight=2.0, candidates=20, neighbours=0.02)})
    bundle = store.bundle(publish(store, files, told, NOON))
    vectors = bundle.vectors()
    assert vectors is not None
    np.testing.assert_array_equal(vectors.rows, unit_vectors())
    memory = bundle.neighbours()
    assert memory is not None
    assert memory.neighbour.tolist() == [1]
