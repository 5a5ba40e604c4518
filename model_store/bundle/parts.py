"""Files of a bundle that stand for themselves: each is decoded and checked, or refused by its name."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from model_store.bundle.manifest import REFUSED_HINT
from model_store.bundle.vector_file import HEADER_LIMIT
from model_store.catalogue.code_names import CodeNames
from model_store.catalogue.resemblances import Resemblances
from model_store.config import ModelConfig
from model_store.errors import BundleRefused, CatalogueError
from model_store.search.fusion import Fusion
from model_store.search.neighbours import Neighbours
from model_store.search.ranker import Ranker

CODE_NAMES = "code_names.parquet"
NEIGHBOURS = "neighbours.safetensors"
RANKER = "ranker.safetensors"
RESEMBLANCES = "resemblances.safetensors"

Tensors = dict[str, npt.NDArray[np.generic]]
Read = Callable[[str], bytes]


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Refuse the file of this name if its content is wrong."""
    try:
        yield
    except CatalogueError as cause:
        raise BundleRefused(f"{name}: {cause}", REFUSED_HINT) from cause


def read_neighbours(read: Read, names: Container[str], fusion: Fusion) -> Neighbours | None:
    """Read the neighbours of all items; ``None`` if there is no such file.

    Raises:
        BundleRefused: The file is damaged, or missing though the answers use it.
    """
    if NEIGHBOURS in names:
        return Neighbours.from_arrays(read_tensors(read, NEIGHBOURS))
    if fusion.neighbours:
        raise BundleRefused(f"{NEIGHBOURS}: missing, which fusion.neighbours {fusion.neighbours} needs", REFUSED_HINT)
    return None


def read_ranker(read: Read, names: Container[str], config: ModelConfig) -> Ranker | None:
    """Read what corrects the dense scores of candidates; ``None`` if there is no such file.

    Raises:
        BundleRefused: The file is damaged, or made for vectors with another content.
    """
    if RANKER not in names:
        return None
    ranker = Ranker.from_arrays(read_tensors(read, RANKER))
    known, content_dim = ranker.features.content_dim, config.recommender.content_dim
    if known != content_dim:
        raise BundleRefused(f"{RANKER}: content_dim is {known}, the config says {content_dim}", REFUSED_HINT)
    return ranker


def read_resemblances(read: Read, names: Container[str]) -> Resemblances | None:
    """Read what the items resemble that were not trained; ``None`` if there is no such file.

    Raises:
        BundleRefused: The file is damaged.
    """
    if RESEMBLANCES not in names:
        return None
    with refusing(RESEMBLANCES):
        return Resemblances.from_arrays(read_tensors(read, RESEMBLANCES))


def read_code_names(read: Read) -> CodeNames:
    """Read the names of code prefixes.

    Raises:
        BundleRefused: The file is damaged.
    """
    with refusing(CODE_NAMES):
        return CodeNames.from_parquet(read(CODE_NAMES))


def read_tensors(read: Read, name: str) -> Tensors:
    """Read a safetensors file as arrays, read-only views of the bytes.

    Raises:
        BundleRefused: The file does not decode, or holds no tensors.
    """
    try:
        data = read(name)
        header = int.from_bytes(data[:8], "little")
        if header > HEADER_LIMIT:
            raise ValueError(f"its header says {header} bytes, at most {HEADER_LIMIT} are allowed")
        tensors = safetensors.numpy.load(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as cause:
        raise BundleRefused(f"{name}: does not decode: {cause}", REFUSED_HINT) from cause
    if not tensors:
        raise BundleRefused(f"{name}: holds no tensors", REFUSED_HINT)
    return dict(tensors)
