"""Histories of the training data's users, with which the service knows them at once: ``histories.parquet``."""

from __future__ import annotations

import numpy as np
import polars as pl

from model_store.bundle.histories import histories_to_parquet
from model_store.catalogue.catalogue import ID_BYTES
from model_store.events.event import MAX_TIMESTAMP
from training.config import ExportConfig
from training.data.dataset import Dataset
from training.data.filters import BoolArray
from training.data.numbering import number_together
from training.data.set_aside import Interactions, rejoin


def build_histories(data: Dataset, options: ExportConfig) -> bytes:
    """Return the newest interactions of all users as ``histories.parquet``, those of the newest users first.

    Interactions that the filters set aside are among them: a user with few of them is a user, too.

    Args:
        data: The data that the model was trained on.
        options: Bounds on users and interactions.
    """
    log, user_ids, item_ids = _whole_log(data)
    log = log.take(_has_room(user_ids)[log.user] & _has_room(item_ids)[log.item])

    lengths = np.bincount(log.user, minlength=len(user_ids))
    ends = np.cumsum(lengths)
    users = np.flatnonzero(lengths)
    newest_first = users[np.argsort(-log.timestamp[ends[users] - 1], kind="stable")][: options.history_users]

    kept = np.minimum(lengths[newest_first], options.history_length)
    offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
    begin = ends[newest_first] - kept
    rows = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - begin, kept)
    chosen = log.take(rows.astype(np.int64))
    return histories_to_parquet(
        user_ids.gather(newest_first).to_arrow(),
        offsets,
        item_ids.gather(chosen.item).to_arrow(),
        np.clip(chosen.timestamp, 0, MAX_TIMESTAMP),
        chosen.event,
    )


def _whole_log(data: Dataset) -> tuple[Interactions, pl.Series, pl.Series]:
    """Return all interactions, ordered by user and each user's by time, and the ids of their users and items."""
    [user], user_ids = number_together(data.user_ids, data.set_aside["user"])
    [item], item_ids = number_together(pl.Series(data.item_ids, dtype=pl.String), data.set_aside["item"])
    aside = Interactions(user, item, data.set_aside["timestamp"].to_numpy(), data.set_aside["event"].to_numpy())
    log = rejoin(data.offsets, data.flat(), aside, data.set_aside["place"].to_numpy())
    return log, user_ids, item_ids


def _has_room(ids: pl.Series) -> BoolArray:
    """Tell which ids the service can store; those of interactions that were set aside are not checked before."""
    return ids.str.len_bytes().is_between(1, ID_BYTES).to_numpy()
