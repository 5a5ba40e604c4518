"""Answers that explored, read from the event log: what was shown, how probable it was, and what came of it.

An answer itself is no event. It is known by the `impression` events that bring its token back; of answers that count as
shown without them, only those that led to something would be known, so they are left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl

from model_store.attribution.keys import AttributionKeys
from model_store.attribution.names import hash_of
from model_store.attribution.token import Attribution, Refusal, hash_subject, subject_of, verify
from model_store.events.event import IMPRESSION
from model_store.events.history_entry import TYPES, UserInteractions

LONGEST_HISTORY = 1000
"""Entries of a history that are read, the newest ones."""

IMPLICIT = "answers that count as shown without impression events"
NO_IMPRESSION = "answers without an impression event"
UNEXPLORED = "answers without exploration"
OTHER_PLACEMENT = "answers of other placements"
UNKNOWN_ASKER = "answers that the user of the events did not ask for"
UNVERIFIED = "attributions that none of the keys signed"
"""Reasons for which something is left out."""

_ANY_AGE_S = 1 << 40  # the service recorded attributions that were valid then


@dataclass
class LoggedAnswer:
    """An answer that explored.

    Attributes:
        user_id: Who asked.
        token: What its attribution says.
        items: Ids of its items that events name, by place from 0.
        rewarded: Places whose item led to an event of the wanted type.
        is_shown: Whether an impression event came.
    """

    user_id: str
    token: Attribution
    items: dict[int, str] = field(default_factory=dict)
    rewarded: set[int] = field(default_factory=set)
    is_shown: bool = False


class LoggedAnswers(NamedTuple):
    """Answers of an event log, oldest first, and how many were left out, by reason."""

    answers: list[LoggedAnswer]
    left_out: Mapping[str, int]


class HistoryEntry(NamedTuple):
    """Something that a user did."""

    timestamp: int  # Unix seconds
    item_id: str
    type: str | None  # None if it is not known


def read_answers(events: pl.DataFrame, keys: AttributionKeys, placement: str | None, reward: str) -> LoggedAnswers:
    """Return the answers that explored and were shown.

    Args:
        events: Drained events.
        keys: Keys of the service.
        placement: Name of the placement whose answers are wanted; ``None``: of all.
        reward: Type of the events that count.
    """
    found: dict[str, LoggedAnswer] = {}
    refused: dict[str, str] = {}
    for row in events.filter(pl.col("attribution").is_not_null()).iter_rows(named=True):
        text = row["attribution"]
        if text not in found and text not in refused:
            opened = _open(text, row["user_id"], keys, placement)
            if isinstance(opened, str):
                refused[text] = opened
            else:
                found[text] = opened
        if text in found:
            _note(found[text], row["item_id"], row["type"], reward)

    shown = [answer for answer in found.values() if answer.is_shown]
    left_out = Counter(refused.values())
    left_out[NO_IMPRESSION] += len(found) - len(shown)
    return LoggedAnswers(
        sorted(shown, key=lambda answer: answer.token.seconds), {k: v for k, v in left_out.items() if v}
    )


def histories_before(
    answers: list[LoggedAnswer], events: pl.DataFrame, earlier: Iterator[UserInteractions], most: int
) -> Iterator[list[HistoryEntry]]:
    """Yield what each answer's user had done in the seconds before it, the newest ``most`` entries, oldest first.

    Args:
        answers: The answers.
        events: Drained events, ordered by time.
        earlier: Histories that the service imported with a version; what comes twice counts once.
        most: Largest length of a history.
    """
    wanted = {answer.user_id for answer in answers}
    entries: defaultdict[str, set[HistoryEntry]] = defaultdict(set)
    for user in earlier:
        if user.user_id in wanted:
            for item_id, timestamp, letter in zip(user.item_ids, user.timestamps, user.letters, strict=True):
                entries[user.user_id].add(HistoryEntry(timestamp, item_id, TYPES.get(ord(letter))))

    known = events.filter(pl.col("user_id").is_in(list(wanted)) & (pl.col("type") != IMPRESSION))
    for user_id, item_id, kind, timestamp in known.select("user_id", "item_id", "type", "timestamp").iter_rows():
        entries[user_id].add(HistoryEntry(timestamp, item_id, kind))

    ordered = {user_id: sorted(found, key=lambda entry: entry.timestamp) for user_id, found in entries.items()}
    for answer in answers:
        before = [each for each in ordered.get(answer.user_id, ()) if each.timestamp < answer.token.seconds]
        yield before[-most:]


def _open(text: str, user_id: str, keys: AttributionKeys, placement: str | None) -> LoggedAnswer | str:
    """Return the answer of a token, or the reason why it is left out."""
    token = verify(text, keys, _ANY_AGE_S, 0)
    if isinstance(token, Refusal):
        return UNVERIFIED
    if placement is not None and token.placement != hash_of(placement):
        return OTHER_PLACEMENT
    if token.propensities is None:
        return UNEXPLORED
    if token.is_implicit:
        return IMPLICIT
    subject = subject_of(user_id, None)
    if all(hash_subject(subject, key) != token.subject for key in keys.all):
        return UNKNOWN_ASKER
    return LoggedAnswer(user_id, token)


def _note(answer: LoggedAnswer, item_id: str, kind: str, reward: str) -> None:
    rank = answer.token.rank(item_id)
    if rank is None:
        return
    answer.items[rank - 1] = item_id
    if kind == IMPRESSION:
        answer.is_shown = True
    if kind == reward:
        answer.rewarded.add(rank - 1)
