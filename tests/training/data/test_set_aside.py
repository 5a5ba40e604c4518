"""Interactions that were set aside find their place again."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from training.data.numbering import number_together
from training.data.set_aside import Interactions, rejoin, set_aside

ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 3), st.integers(-1, 4), st.booleans()), max_size=30
)


@given(ROWS)
def test_a_users_sequence_is_whole_again(rows: list[tuple[int, int, int, int, bool]]) -> None:
    rows.sort(key=lambda row: row[2])  # a log in order of time, with ties
    frame = pl.DataFrame(
        [(f"u{user}", f"i{item}", time, event) for user, item, time, event, _ in rows],
        schema={"user": pl.String, "item": pl.String, "timestamp": pl.Int64, "event": pl.Int8},
        orient="row",
    )
    kept = np.array([is_kept for *_, is_kept in rows], dtype=np.bool_)
    user_ids = frame["user"].filter(pl.Series(kept, dtype=pl.Boolean)).unique(maintain_order=True)
    user = np.array([user for user, *_ in rows], dtype=np.int32)
    aside = set_aside(frame.filter(~kept), user, kept, user_ids)

    [kept_user, aside_user], ids = number_together(user_ids, frame.filter(kept)["user"], aside["user"])
    item_of = {f"i{number}": number for number in range(5)}
    order = np.argsort(kept_user, kind="stable")
    columns = frame.filter(kept)
    items = np.array([item_of[item] for item in columns["item"]], dtype=np.int32)
    whole = rejoin(
        np.searchsorted(kept_user[order], np.arange(len(user_ids) + 1)),
        Interactions(
            kept_user[order],
            items[order],
            columns["timestamp"].to_numpy()[order],
            columns["event"].to_numpy()[order],
        ),
        Interactions(
            aside_user,
            np.array([item_of[item] for item in aside["item"].cast(pl.String)], dtype=np.int32),
            aside["timestamp"].to_numpy(),
            aside["event"].to_numpy(),
        ),
        aside["place"].to_numpy(),
    )
    found = [(ids[row], *rest) for row, *rest in zip(*(column.tolist() for column in whole), strict=True)]
    for name in ids:
        expected = [(f"u{user}", *rest) for user, *rest, _ in rows if f"u{user}" == name]
        assert [row for row in found if row[0] == name] == expected
    assert len(found) == len(rows)
