"""The bundle of one model version, verified while it is read.

Opening a bundle checks the signature of the manifest, if one is needed, the manifest and the list of files. Each file
is hashed when it is read, on the very bytes that the caller gets, so unchecked bytes never leave this module. Tensors
are safetensors, tables are Parquet, the rest is JSON or ONNX: no format that can run code.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass
from io import BytesIO

from model_store.bundle.golden import GOLDEN, Golden, goldens_from_json
from model_store.bundle.graph_check import check_graph
from model_store.bundle.histories import HISTORIES, check_histories
from model_store.bundle.manifest import LIST_HINT, MANIFEST, MANIFEST_LIMIT, REFUSED_HINT, VERSION, FileSeal, Manifest
from model_store.bundle.parts import (
    CODE_NAMES,
    NEIGHBOURS,
    RANKER,
    RESEMBLANCES,
    Read,
    Tensors,
    read_code_names,
    read_neighbours,
    read_ranker,
    read_resemblances,
    read_tensors,
    refusing,
)
from model_store.bundle.signature import SIGNATURE, SIGNATURE_LIMIT, Trust, signers
from model_store.bundle.storage import Entry, Folder
from model_store.bundle.vector_file import EMBEDDINGS, VECTORS, check_vectors, read_vector_file
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.code_names import CodeNames
from model_store.catalogue.growing_rows import GrowingRows
from model_store.catalogue.table import FirstCodes
from model_store.config import ModelConfig
from model_store.errors import BundleRefused, VersionNotFound
from model_store.search.fusion import GENERATIVE_ALONE, Fusion
from model_store.search.neighbours import Neighbours
from model_store.search.ranker import Ranker


@dataclass(frozen=True)
class Bundle:
    """An opened version. It keeps no file content: each call reads and verifies again."""

    manifest: Manifest
    folder: Folder
    signed_by: str = ""
    """Name of the trusted key that signed the manifest; empty if no signature was needed."""

    @property
    def version(self) -> str:
        """Name of the version."""
        return self.manifest.version

    @property
    def config(self) -> ModelConfig:
        """Configuration that rebuilds the network."""
        return self.manifest.config

    def __contains__(self, name: str) -> bool:
        return name in self.manifest.files

    def read(self, name: str) -> bytes:
        """Return the verified bytes of one file.

        Raises:
            BundleRefused: The bundle has no such file, or it is not what was sealed.
        """
        seal = self._seal(name)
        data = self.folder.read(name, limit=seal.size)
        if data is None:
            raise _refusal(self.version, f"{name}: missing")
        check_seal(self.version, name, FileSeal.of(data), seal)
        return data

    def _seal(self, name: str) -> FileSeal:
        seal = self.manifest.files.get(name)
        if seal is None:
            raise _refusal(self.version, f"{name}: this version has no such file")
        return seal

    @property
    def signers(self) -> list[str]:
        """Names of the keys that the file of signatures claims, whether or not they are trusted; none without one.

        Raises:
            BundleRefused: The file is damaged.
        """
        signatures = self.folder.read(SIGNATURE, limit=SIGNATURE_LIMIT)
        return [] if signatures is None else signers(signatures)

    def catalogue(self) -> Catalogue:
        """Read the catalogue and check it against the configuration."""
        return _join_catalogue(self.read, self.manifest.files, self.vectors(), self.config)

    def first_codes(self) -> FirstCodes:
        """Read only the ids of the catalogue's items and their first codes."""
        name = "catalogue.parquet"
        with refusing(name):
            return FirstCodes.from_bytes(self.read(name))

    def vectors(self) -> GrowingRows | None:
        """Read only the item vectors of the catalogue, ``[items, d_s]``; ``None`` if the version has none.

        They have room for those of new items, and are the only copy that was made of them.
        """
        seal = self._seal(EMBEDDINGS)
        with self.folder.opened(EMBEDDINGS) as file:
            if file is None:
                raise _refusal(self.version, f"{EMBEDDINGS}: missing")
            found = read_vector_file(file, seal.size, VECTORS, self.config.tokenizer.embedding_dim)
        check_seal(self.version, EMBEDDINGS, found.seal, seal)
        return check_vectors(found, self.config, self.manifest.fusion)

    def weights(self) -> Tensors:
        """Read the tensors of tokenizer, recommender and heads by parameter name."""
        return read_tensors(self.read, "weights.safetensors")

    def neighbours(self) -> Neighbours | None:
        """Read the neighbours of all items; ``None`` in a bundle whose answers do not use them."""
        return read_neighbours(self.read, self.manifest.files, self.manifest.fusion)

    def ranker(self) -> Ranker | None:
        """Read what corrects the dense scores of candidates; ``None`` in a bundle without it."""
        return read_ranker(self.read, self.manifest.files, self.config)

    def code_names(self) -> CodeNames:
        """Read the names of code prefixes."""
        return read_code_names(self.read)

    def embeddings(self) -> Tensors:
        """Read the tensors of ``embeddings.safetensors`` by name."""
        return read_tensors(self.read, EMBEDDINGS)

    def goldens(self) -> tuple[Golden, ...]:
        """Read the histories with expected answers that are replayed before serving."""
        return goldens_from_json(self.read(GOLDEN))

    def verify_hashes(self) -> None:
        """Verify the hash of every file, also of those that serving never reads, without keeping any in memory.

        Raises:
            BundleRefused: Names the first file that is not what was sealed.
        """
        for name, seal in sorted(self.manifest.files.items()):
            found = self.folder.digest(name, limit=seal.size)
            if found is None:
                raise _refusal(self.version, f"{name}: missing")
            check_seal(self.version, name, FileSeal(sha256=found[0], size=found[1]), seal)

    def verify(self) -> Catalogue:
        """Verify everything: every hash, every format, and that items, codes, goldens and configuration agree.

        Returns:
            The catalogue, which had to be read for that.

        Raises:
            BundleRefused: Names the first file that is wrong.
        """
        return check_contents(self.read, self.manifest.files, self.config, self.manifest.fusion)


def load_bundle(store: Folder | str, version: str, trust: Trust) -> Bundle:
    """Open a version of a model store, given as folder or URL.

    Args:
        store: The model store.
        version: Name of the version.
        trust: Whose versions may be opened.

    Raises:
        VersionNotFound: The model store has no sealed version of this name.
        SignatureRefused: No trusted key signed the manifest.
        BundleRefused: The manifest is damaged, or files are missing, unexpected, links or of a wrong size.
        ConfigError: The trusted keys cannot be read.
    """
    root = Folder.at(store) if isinstance(store, str) else store
    if not VERSION.fullmatch(version):
        raise VersionNotFound(f"{version[:80]!r} is not a version name", LIST_HINT)
    entry = next((one for one in root.entries() if one.name == version), None)
    if entry is None:
        raise VersionNotFound(f"the model store has no version {version}", LIST_HINT)
    if entry.kind != "folder":
        raise _refusal(version, f"{version}: is not a folder but a file or link")

    folder = root.child(version)
    found = {one.name: one for one in folder.files()}
    if MANIFEST not in found:
        raise VersionNotFound(
            f"version {version} has no {MANIFEST}: it was never sealed, or is being removed", LIST_HINT
        )
    _check_plain(version, found.values())
    manifest, signed_by = _read_manifest(folder, version, trust)
    _check_listing(manifest, found)
    return Bundle(manifest, folder, signed_by)


def check_contents(
    read: Read, names: Collection[str], config: ModelConfig, fusion: Fusion = GENERATIVE_ALONE
) -> Catalogue:
    """Check that files decode and agree with each other; also used before they are published.

    Args:
        read: Returns the bytes of a file by name.
        names: All files; those without a format of their own are only read.
        config: The model that they belong to.
        fusion: How its answers use the item vectors.

    Returns:
        The catalogue.

    Raises:
        BundleRefused: Names the first file that is wrong.
    """
    catalogue = read_catalogue(read, names, config, fusion)
    known = catalogue.row_of

    known_by = {NEIGHBOURS: read_neighbours(read, names, fusion), RANKER: read_ranker(read, names, config)}
    for name, part in known_by.items():
        if part is not None:
            _check_known_items(name, part.items, catalogue)

    with refusing(CODE_NAMES):
        read_code_names(read).check_fit(catalogue.codes)

    goldens = goldens_from_json(read(GOLDEN))
    for number, golden in enumerate(goldens):
        unknown = (set(golden.history) | set(golden.items)) - known.keys()
        if unknown:
            raise BundleRefused(
                f"{GOLDEN}: golden {number} names {min(unknown)!r}, which the catalogue lacks", REFUSED_HINT
            )

    for name in sorted(set(names) - {"catalogue.parquet", CODE_NAMES, GOLDEN}):
        if name.endswith(".safetensors"):
            read_tensors(read, name)
        elif name.endswith(".onnx"):
            check_graph(name, read(name))
        elif name == HISTORIES:
            check_histories(read(name))
        else:
            read(name)
    return catalogue


def _check_known_items(name: str, items: int, catalogue: Catalogue) -> None:
    """Refuse a file that knows more items than the catalogue has, or than it has old ones."""
    if items > len(catalogue):
        raise BundleRefused(f"{name}: knows {items} items, the catalogue has {len(catalogue)}", REFUSED_HINT)
    if items > (first := catalogue.resemblances.first):
        raise BundleRefused(f"{RESEMBLANCES}: first_new is {first}, but {name} knows {items} items", REFUSED_HINT)


def check_seal(version: str, name: str, found: FileSeal, seal: FileSeal) -> None:
    """Raise :class:`BundleRefused` unless a file, read to at most one byte beyond its size, is the sealed one."""
    if found.size != seal.size:
        size = f"more than {seal.size}" if found.size > seal.size else str(found.size)
        raise _refusal(version, f"{name}: holds {size} bytes instead of {seal.size}")
    if found != seal:
        raise _refusal(version, f"{name}: its SHA-256 is not the sealed one")


def read_catalogue(
    read: Read, names: Container[str], config: ModelConfig, fusion: Fusion = GENERATIVE_ALONE
) -> Catalogue:
    """Read the catalogue with its vectors, and check codes and vectors against the configuration.

    Raises:
        BundleRefused: A file does not decode, or has other dimensions than the configuration.
    """
    data = read(EMBEDDINGS)
    found = read_vector_file(BytesIO(data), len(data), VECTORS, config.tokenizer.embedding_dim)
    return _join_catalogue(read, names, check_vectors(found, config, fusion), config)


def _join_catalogue(read: Read, names: Container[str], vectors: GrowingRows | None, config: ModelConfig) -> Catalogue:
    """Read the catalogue, give its items their vectors, and check codes against the configuration."""
    name = "catalogue.parquet"
    known = read_resemblances(read, names)
    with refusing(name):
        catalogue = Catalogue.from_parquet(read(name), known)
        if vectors is not None:
            catalogue = catalogue.with_vectors(vectors)

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


def _read_manifest(folder: Folder, version: str, trust: Trust) -> tuple[Manifest, str]:
    """Read the manifest of a version, verified by its own seal, and the trusted key that signed these very bytes."""
    signatures = folder.read(SIGNATURE, limit=SIGNATURE_LIMIT) if trust.is_limited else None
    data = folder.read(MANIFEST, limit=MANIFEST_LIMIT)
    if data is None:
        raise VersionNotFound(f"version {version} was just removed", LIST_HINT)
    try:
        signed_by = trust.find_signer(data, signatures)
        manifest = Manifest.from_bytes(data)
    except BundleRefused as cause:
        raise type(cause)(f"version {version} refused: {cause}", cause.hint) from cause
    if manifest.version != version:
        raise _refusal(version, f"{MANIFEST}: belongs to version {manifest.version}")
    return manifest, signed_by


def _check_plain(version: str, found: Iterable[Entry]) -> None:
    """Raise :class:`BundleRefused` unless all entries are plain files."""
    for entry in found:
        if entry.kind != "file":
            raise _refusal(version, f"{entry.name}: is not a plain file but a link or device")


def _check_listing(manifest: Manifest, found: dict[str, Entry]) -> None:
    """Raise :class:`BundleRefused` unless exactly the sealed files are there, in the sealed sizes."""
    for name, seal in sorted(manifest.files.items()):
        if name not in found:
            raise _refusal(manifest.version, f"{name}: missing")
        if found[name].size != seal.size:
            raise _refusal(manifest.version, f"{name}: holds {found[name].size} bytes instead of {seal.size}")

    unexpected = found.keys() - manifest.files.keys() - {MANIFEST, SIGNATURE}
    if unexpected:
        raise _refusal(manifest.version, f"{min(unexpected)}: does not belong to the bundle")


def _refusal(version: str, problem: str) -> BundleRefused:
    return BundleRefused(f"version {version} refused: {problem}", REFUSED_HINT)
