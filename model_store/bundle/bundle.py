"""Reading a bundle: nothing is handed out whose bytes were not checked against the seal.

Opening checks the manifest and the list of files; each file is hashed when it is read, on the very bytes that the
caller gets. Tensors come as safetensors, tables as Parquet, the rest as JSON or ONNX: nothing that can run code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from model_store.bundle.golden import GOLDEN, Golden, goldens_from_json
from model_store.bundle.manifest import MANIFEST, MANIFEST_LIMIT, REFUSED_HINT, VERSION, FileSeal, Manifest
from model_store.bundle.storage import Entry, Folder
from model_store.catalogue.catalogue import Catalogue
from model_store.config import ModelConfig
from model_store.errors import BundleRefused, CatalogueError, VersionNotFound
from model_store.search.fusion import GENERATIVE_ALONE, Fusion
from model_store.search.transitions import Transitions

EMBEDDINGS = "embeddings.safetensors"
TRANSITIONS = "transitions.safetensors"
VECTORS = "vectors"
"""Tensor of :data:`EMBEDDINGS` with the unit-length vectors that dense scores compare users with."""

UNIT_TOLERANCE = 1e-3

Tensors = dict[str, npt.NDArray[np.generic]]
Read = Callable[[str], bytes]


@dataclass(frozen=True)
class Bundle:
    """One version, opened. Holds no file content: each call reads and verifies anew."""

    manifest: Manifest
    folder: Folder

    @property
    def version(self) -> str:
        """Name of the version."""
        return self.manifest.version

    @property
    def config(self) -> ModelConfig:
        """The description that rebuilds the network."""
        return self.manifest.config

    def __contains__(self, name: str) -> bool:
        return name in self.manifest.files

    def read(self, name: str) -> bytes:
        """The bytes of one file, verified.

        Raises:
            BundleRefused: The bundle has no such file, or it is not what was sealed.
        """
        seal = self.manifest.files.get(name)
        if seal is None:
            raise _refused(self.version, f"{name}: this version has no such file")
        data = self.folder.read(name, limit=seal.size)
        if data is None:
            raise _refused(self.version, f"{name}: missing")
        check_seal(self.version, name, data, seal)
        return data

    def catalogue(self) -> Catalogue:
        """Items and semantic IDs, one to one, checked against the config."""
        return read_catalogue(self.read, self.config, self.manifest.fusion)

    def vectors(self) -> npt.NDArray[np.float32] | None:
        """Vectors of the catalogue's items alone, ``[items, d_s]``; ``None`` if the version has none."""
        return _read_vectors(self.read, self.config, self.manifest.fusion)

    def weights(self) -> Tensors:
        """Tensors of tokenizer, recommender and heads by parameter name."""
        return read_tensors(self.read, "weights.safetensors")

    def transitions(self) -> Transitions | None:
        """Which items follow which; none in a bundle whose answers do not use it."""
        return read_transitions(self.read, self.manifest.files, self.manifest.fusion)

    def embeddings(self) -> Tensors:
        """Tensors of ``embeddings.safetensors`` by name."""
        return read_tensors(self.read, EMBEDDINGS)

    def goldens(self) -> tuple[Golden, ...]:
        """Histories with expected answers, to replay before serving."""
        return goldens_from_json(self.read(GOLDEN))

    def verify(self) -> None:
        """Read everything: every hash, every format, and that items, codes, goldens and config agree.

        Raises:
            BundleRefused: Names the first file that is wrong.
        """
        check_contents(self.read, self.manifest.files, self.config, self.manifest.fusion)


def load_bundle(store: Folder | str, version: str) -> Bundle:
    """Open a version of a store, given as folder or URL.

    Raises:
        VersionNotFound: The store has no sealed version of this name.
        BundleRefused: The manifest is damaged, or files are missing, unexpected, links or of a wrong size.
    """
    root = Folder.at(store) if isinstance(store, str) else store
    hint = "`etegrec-models list` shows the versions"
    if not VERSION.fullmatch(version):
        raise VersionNotFound(f"{version[:80]!r} is no version name", hint)
    entry = next((one for one in root.entries() if one.name == version), None)
    if entry is None:
        raise VersionNotFound(f"the store has no version {version}", hint)
    if entry.kind != "folder":
        raise _refused(version, f"{version}: is no folder but a file or link")
    folder = root.child(version)
    found = {one.name: one for one in folder.files()}
    if MANIFEST not in found:
        raise VersionNotFound(f"version {version} has no {MANIFEST}: it was never sealed, or is being removed", hint)
    _check_plain(version, found.values())
    manifest = _read_manifest(folder, version)
    _check_listing(manifest, found)
    return Bundle(manifest, folder)


def check_contents(read: Read, names: Iterable[str], config: ModelConfig, fusion: Fusion = GENERATIVE_ALONE) -> None:
    """Check that files decode and agree with each other; also before they are published.

    Args:
        read: Gives the bytes of a file by name.
        names: All files; those without a format of their own are only read.
        config: The model that they belong to.
        fusion: How its answers use the item vectors.

    Raises:
        BundleRefused: Names the first file that is wrong.
    """
    known = read_catalogue(read, config, fusion).row_of
    memory = read_transitions(read, names, fusion)
    if memory is not None and memory.items != len(known):
        raise BundleRefused(f"{TRANSITIONS}: knows {memory.items} items, the catalogue has {len(known)}", REFUSED_HINT)
    goldens = goldens_from_json(read(GOLDEN))
    for number, golden in enumerate(goldens):
        if unknown := (set(golden.history) | set(golden.items)) - known.keys():
            raise BundleRefused(
                f"{GOLDEN}: golden {number} names {min(unknown)!r}, which the catalogue lacks", REFUSED_HINT
            )
    for name in sorted(set(names) - {"catalogue.parquet", GOLDEN}):
        if name.endswith(".safetensors"):
            read_tensors(read, name)
        elif not read(name) and name.endswith(".onnx"):
            raise BundleRefused(f"{name}: empty", REFUSED_HINT)


def check_seal(version: str, name: str, data: bytes, seal: FileSeal) -> None:
    """Raise :class:`BundleRefused` unless the bytes are the sealed ones."""
    if len(data) != seal.size:
        size = f"more than {seal.size}" if len(data) > seal.size else str(len(data))
        raise _refused(version, f"{name}: holds {size} bytes instead of {seal.size}")
    if FileSeal.of(data) != seal:
        raise _refused(version, f"{name}: its SHA-256 is not the sealed one")


def read_catalogue(read: Read, config: ModelConfig, fusion: Fusion = GENERATIVE_ALONE) -> Catalogue:
    """The catalogue with its vectors; as many codes of the same range, and as wide vectors, as the config says."""
    name = "catalogue.parquet"
    try:
        catalogue = Catalogue.from_parquet(read(name), _read_vectors(read, config, fusion))
    except CatalogueError as cause:
        raise BundleRefused(f"{name}: {cause}", REFUSED_HINT) from cause
    if catalogue.codes.shape[1] != config.code_length:
        raise BundleRefused(
            f"{name}: items have {catalogue.codes.shape[1]} codes, the config says {config.code_length}", REFUSED_HINT
        )
    if catalogue.codebook_size != config.tokenizer.codebook_size:
        raise BundleRefused(
            f"{name}: codes range to {catalogue.codebook_size}, the config says {config.tokenizer.codebook_size}",
            REFUSED_HINT,
        )
    return catalogue


def _read_vectors(read: Read, config: ModelConfig, fusion: Fusion) -> npt.NDArray[np.float32] | None:
    """Item vectors ``[items, d_s]`` for histories and dense scores; a bundle that needs neither may lack them."""
    vectors = read_tensors(read, EMBEDDINGS).get(VECTORS)
    if vectors is None:
        if fusion.weight:
            raise BundleRefused(
                f"{EMBEDDINGS}: lacks {VECTORS}, which fusion.weight {fusion.weight} needs", REFUSED_HINT
            )
        if config.recommender.history_tokens == "vector":
            raise BundleRefused(f"{EMBEDDINGS}: lacks {VECTORS}, as which histories are read", REFUSED_HINT)
        return None
    width = config.tokenizer.embedding_dim
    if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] != width:
        raise BundleRefused(
            f"{EMBEDDINGS}: {VECTORS} are {vectors.dtype} of shape {vectors.shape}, expected float32 [items, {width}]",
            REFUSED_HINT,
        )
    found: npt.NDArray[np.float32] = vectors.astype(np.float32, copy=False)
    length = np.sqrt(np.einsum("ij,ij->i", found, found))  # without a temporary of their size
    if not (np.abs(length - 1) < UNIT_TOLERANCE).all():  # negated, so that NaN is refused too
        raise BundleRefused(f"{EMBEDDINGS}: a row of {VECTORS} has no unit length", REFUSED_HINT)
    return found


def read_transitions(read: Read, names: Iterable[str], fusion: Fusion) -> Transitions | None:
    """Which items follow which, if there is such a file; answers that use it need it."""
    if TRANSITIONS in names:
        return Transitions.from_arrays(read_tensors(read, TRANSITIONS))
    if fusion.transitions:
        raise BundleRefused(
            f"{TRANSITIONS}: missing, which fusion.transitions {fusion.transitions} needs", REFUSED_HINT
        )
    return None


def read_tensors(read: Read, name: str) -> Tensors:
    """A safetensors file as arrays; read-only views of the bytes."""
    try:
        tensors = safetensors.numpy.load(read(name))
    except (SafetensorError, KeyError, TypeError, ValueError) as cause:
        raise BundleRefused(f"{name}: does not decode: {cause}", REFUSED_HINT) from cause
    if not tensors:
        raise BundleRefused(f"{name}: holds no tensors", REFUSED_HINT)
    return dict(tensors)


def _read_manifest(folder: Folder, version: str) -> Manifest:
    data = folder.read(MANIFEST, limit=MANIFEST_LIMIT)
    if data is None:
        raise VersionNotFound(f"version {version} was removed meanwhile", "`etegrec-models list` shows the versions")
    try:
        manifest = Manifest.from_bytes(data)
    except BundleRefused as cause:
        raise BundleRefused(f"version {version} refused: {cause}", cause.hint) from cause
    if manifest.version != version:
        raise _refused(version, f"{MANIFEST}: belongs to version {manifest.version}")
    return manifest


def _check_plain(version: str, found: Iterable[Entry]) -> None:
    for entry in found:
        if entry.kind != "file":
            raise _refused(version, f"{entry.name}: is no plain file but a link or device")


def _check_listing(manifest: Manifest, found: dict[str, Entry]) -> None:
    for name, seal in sorted(manifest.files.items()):
        if name not in found:
            raise _refused(manifest.version, f"{name}: missing")
        if found[name].size != seal.size:
            raise _refused(manifest.version, f"{name}: holds {found[name].size} bytes instead of {seal.size}")
    if added := found.keys() - manifest.files.keys() - {MANIFEST}:
        raise _refused(manifest.version, f"{min(added)}: does not belong to the bundle")


def _refused(version: str, problem: str) -> BundleRefused:
    return BundleRefused(f"version {version} refused: {problem}", REFUSED_HINT)
