"""Checking and sorting of semantic IDs in arrays ``[items, L]``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model_store.errors import CatalogueError


def check_codes(codes: npt.NDArray[np.integer], codebook_size: int) -> None:
    """Raise :class:`CatalogueError` unless these are semantic IDs ``[items, L]``, each code below the codebook size."""
    if codes.ndim != 2 or not codes.size:
        raise CatalogueError(f"a trie needs codes of shape [items, L], got {codes.shape}")
    if codes.min() < 0 or codes.max() >= codebook_size:
        raise CatalogueError(f"codes must lie in 0 … {codebook_size - 1}, found {codes.min()} … {codes.max()}")


def sort_by_semantic_id(codes: npt.NDArray[np.integer], codebook_size: int) -> npt.NDArray[np.int32]:
    """Return the rows in ascending order of their semantic IDs; rows with equal IDs in ascending order."""
    items, levels = codes.shape
    row_bits = items.bit_length()
    code_bits = (codebook_size - 1).bit_length()
    if row_bits + levels * code_bits > 64:
        return np.lexsort(codes.T[::-1]).astype(np.int32)

    # Semantic ID and row become one number: to sort numbers is several times faster than to sort row indices.
    keys = np.zeros(items, dtype=np.uint64)
    for level in range(levels):
        keys = (keys << np.uint64(code_bits)) | codes[:, level].astype(np.uint64)
    keys = (keys << np.uint64(row_bits)) | np.arange(items, dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64((1 << row_bits) - 1)).astype(np.int32)
