"""The manifest of a bundle: a description of the model, its origin, and the seal of every file.

``manifest.json`` is canonical JSON (sorted keys, no spaces). It carries the SHA-256 of itself without that one field,
so that no byte of it can change unnoticed either. It is written last: a folder without it is not a bundle.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from model_store.config import ModelConfig
from model_store.errors import BundleRefused
from model_store.search.fusion import GENERATIVE_ALONE, Fusion

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 4 << 20
"""Size of the largest manifest that is read, in bytes."""

FORMAT_VERSION: Literal[2] = 2
"""Format that this release writes and reads. Since 2, neighbours take part in the search."""

VERSION = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""Pattern of a version name, which is a folder name and part of Redis keys."""

REQUIRED_FILES = frozenset(
    {
        "weights.safetensors",  # tokenizer, recommender and heads
        "search.onnx",  # the whole search as one graph
        "tokenizer.onnx",  # item embedding -> ranked codes
        "embeddings.safetensors",
        "catalogue.parquet",
        "code_names.parquet",  # what the items below a prefix of codes have in common
        "golden.json",  # histories with expected answers
    }
)
OPTIONAL_FILES = frozenset(
    {
        "content.onnx",  # title, categories and attributes -> item embedding
        "histories.parquet",  # newest interactions of the users of the training data
        "search.int8.onnx",  # search.onnx with weights of 8 bits
        "neighbours.safetensors",  # which items stand close to each other
        "ranker.safetensors",  # what corrects the dense scores of candidates
        "resemblances.safetensors",  # what the items resemble that are served by their content alone
        "similar_items.safetensors",  # which trained items have which words
    }
)
REPORT_FILE = re.compile(r"report(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}){1,4}")

REFUSED_HINT = "restore the version from a backup, or publish it again; `etegrec-models rollback` serves the one before"
LIST_HINT = "`etegrec-models list` shows the versions"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class FileSeal(_Part):
    """The seal of one file: the hash and the size of its bytes."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the whole file, lower-case hex")
    size: int = Field(ge=0, description="size in bytes")

    @classmethod
    def of(cls, data: bytes) -> FileSeal:
        """Compute the seal of these bytes."""
        return cls(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


class Origin(NamedTuple):
    """The data and the training settings that a model was made from, as hashes."""

    data: str
    training: str | None
    """``None`` in versions of older releases, whose settings are not known."""

    def matches(self, other: Origin) -> bool:
        """Tell whether both are the same; settings that are not known count as the same."""
        has_both = self.training is not None and other.training is not None
        return self.data == other.data and (not has_both or self.training == other.training)


class DataSummary(_Part):
    """The data that a model was trained on."""

    name: str = Field(description="data set, e.g. ml-100k")
    fingerprint: str = Field(description="hash of the prepared data; equal hashes mean the same interactions")
    counts: dict[str, int] = Field({}, description="number of users, items, interactions …")


class Description(_Part):
    """The part of a :class:`Manifest` that the publisher of a model writes; the model store adds the rest."""

    config: ModelConfig
    data: DataSummary
    metrics: dict[str, dict[str, float]] = Field({}, description="metrics by name, by model or protocol")
    tokenizer: dict[str, JsonValue] = Field({}, description="figures of the tokenizer: collisions, codes in use …")
    fusion: Fusion = Field(
        GENERATIVE_ALONE, description="how dense scores enter the answers, fitted on validation users"
    )
    parent: str | None = Field(None, pattern=f"^{VERSION.pattern}$", description="version that was live before it")
    embedding_source: Literal["sasrec", "user"] = Field(
        "sasrec", description="origin of the item embeddings: trained here, or given by the user"
    )
    # Left out when empty: the manifests of older releases must serialise to the bytes that were sealed and signed.
    training: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        exclude_if=lambda value: value is None,
        description="hash of the training settings; equal hashes and data mean the same model",
    )
    coverage: dict[str, float] = Field(
        {},
        exclude_if=lambda value: not value,
        description="how many items the answers of test users hold, and how they concentrate",
    )

    @property
    def origin(self) -> Origin:
        """The data and the settings that the model was made from."""
        return Origin(self.data.fingerprint, self.training)


class Manifest(Description):
    """The sealed description of one version."""

    format_version: Literal[2] = FORMAT_VERSION
    version: str = Field(pattern=f"^{VERSION.pattern}$", description="name of the version and of its folder")
    created_at: AwareDatetime = Field(description="time of publication, UTC")
    files: dict[str, FileSeal] = Field(description="seal of every file but the manifest, by path inside the bundle")

    @model_validator(mode="after")
    def _files_are_known(self) -> Self:
        missing = REQUIRED_FILES - self.files.keys()
        if missing:
            raise ValueError(f"files lacks {', '.join(sorted(missing))}")
        for name in sorted(self.files.keys() - REQUIRED_FILES - OPTIONAL_FILES):
            if not REPORT_FILE.fullmatch(name):
                raise ValueError(f"files holds {name!r}, which is not a file of a bundle")
        return self

    def to_bytes(self) -> bytes:
        """Serialise with its own seal."""
        content = self.model_dump(mode="json")
        return _canonical(content | {"seal": _seal(content)})

    @property
    def digest(self) -> str:
        """SHA-256 of the whole content; two versions with the same one hold the same files, byte for byte."""
        return _seal(self.model_dump(mode="json"))

    @property
    def size(self) -> int:
        """Size of all files together, in bytes."""
        return sum(seal.size for seal in self.files.values())

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read and verify the output of :meth:`to_bytes`.

        Raises:
            BundleRefused: A byte differs from what was sealed, or this release does not know the format.
        """
        if len(data) > MANIFEST_LIMIT:
            raise BundleRefused(f"{MANIFEST}: larger than {MANIFEST_LIMIT} bytes", REFUSED_HINT)

        content = _open_seal(data)
        if content.get("format_version") != FORMAT_VERSION:
            raise BundleRefused(
                f"{MANIFEST}: format_version is {content.get('format_version')!r}, this release reads {FORMAT_VERSION}",
                "install the release that wrote it, or publish the model again with this one",
            )

        try:
            return cls.model_validate_json(_canonical(content), strict=True)
        except ValidationError as cause:
            raise BundleRefused(f"{MANIFEST}: {first_problem(cause)}", REFUSED_HINT) from cause


def new_version(created_at: datetime, files: Mapping[str, FileSeal]) -> str:
    """Name a version after its time and content, e.g. ``20261123t175233z-1a2b3c4d``; later versions sort later."""
    content = "\n".join(f"{name} {seal.sha256}" for name, seal in sorted(files.items()))
    short_hash = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{created_at.astimezone(UTC):%Y%m%dt%H%M%Sz}-{short_hash}"


def first_problem(error: ValidationError) -> str:
    """Return the first problem of a validation in one line: ``field: message``."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _seal(content: Any) -> str:
    return hashlib.sha256(_canonical(content)).hexdigest()


def _open_seal(data: bytes) -> dict[str, Any]:
    """Return the content without its seal, or raise :class:`BundleRefused` unless the seal matches to the byte."""
    try:
        content = json.loads(data)
        seal = content.pop("seal")
        is_intact = seal == _seal(content) and _canonical(content | {"seal": seal}) == data
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as cause:
        raise BundleRefused(f"{MANIFEST}: is not a sealed manifest ({type(cause).__name__})", REFUSED_HINT) from cause
    if not is_intact:
        raise BundleRefused(f"{MANIFEST}: its content does not match its own seal", REFUSED_HINT)
    return dict(content)
