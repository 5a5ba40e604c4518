"""Conversion between a snapshot and its stored form, a head and a block of bytes; both stores use it."""

from __future__ import annotations

from model_store.replication.snapshots import ChunkJoiner, SnapshotHead, pack_arrays, unpack_arrays
from service.store.change_stream import Head, Position, Snapshot


def pack_snapshot(snapshot: Snapshot) -> tuple[SnapshotHead, bytes]:
    """Return the head and the block. Takes seconds for millions of items, so call it in a thread."""
    block = pack_arrays(snapshot.arrays)
    head = SnapshotHead.of(block, *snapshot.at, snapshot.lineage, snapshot.origin)
    return head, block


def unpack_snapshot(head: SnapshotHead, joiner: ChunkJoiner) -> Snapshot:
    """Return the snapshot whose chunks were added to ``joiner``. Its arrays are views of the joined block.

    Raises:
        StoreCorrupt: The block differs from the digest in its head, or is damaged.
    """
    arrays = unpack_arrays(joiner.block())
    return Snapshot(Position(head.revision, head.nonce), head.lineage, head.origin, arrays)


def summarise_head(head: SnapshotHead) -> Head:
    """Return the part of a stored head that replicas compare themselves with."""
    return Head(Position(head.revision, head.nonce), head.lineage)
