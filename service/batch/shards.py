"""Computation of one shard, in any process that sees the folder of the run and the model store."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from model_store.attribution.token import ANSWER_ID_BYTES, Answered, sign, subject_of
from model_store.catalogue.catalogue import Catalogue
from model_store.errors import ConfigError, DataError
from model_store.shards.runners import ComputeShard
from service.answers.exploration import Drawn
from service.answers.similar import find_similar
from service.batch.answering import Answer, BatchRecommender
from service.batch.inputs import read_users
from service.batch.opening import OpenedRun, open_run
from service.batch.run_folder import FinishedShard, RunFolder
from service.batch.users import UserHistory
from service.errors import InvalidFields
from service.telemetry.logs import set_up_logs

_TEXT = pa.string()
_CODES = pa.list_(pa.list_(pa.int16()))

RECOMMENDED = pa.schema(
    {
        "user": _TEXT,
        "items": pa.list_(_TEXT),
        "scores": pa.list_(pa.float32()),
        "codes": _CODES,
        "version": _TEXT,
        "served_by": _TEXT,
        "attribution": _TEXT,
    }
)
"""Columns of recommendations: a row for each user, items best first, empty where no item obeys the rules; attributions
are null where no key is known."""

PROBABILITIES = pa.schema(
    {
        "user": _TEXT,
        "items": pa.list_(_TEXT),
        "probabilities": pa.list_(pa.list_(pa.float32())),
        "version": _TEXT,
        "served_by": _TEXT,
    }
)
"""Columns of probabilities: a row for each user, with all items that may come, and of each the probability to come in
each of the first places of the answer."""

AUDIENCE = pa.schema({"item": _TEXT, "user": _TEXT, "rank": pa.int32(), "score": pa.float32(), "version": _TEXT})
"""Columns of an audience: a row for each item and user who would see it, with its place among the user's k items."""

SIMILAR = pa.schema(
    {
        "item": _TEXT,
        "items": pa.list_(_TEXT),
        "scores": pa.list_(pa.float32()),
        "codes": _CODES,
        "shared_codes": pa.list_(pa.int64()),
        "version": _TEXT,
    }
)
"""Columns of similar items: a row for each item; scores are cosines, null where the model has no vectors."""


class ShardAnswers(NamedTuple):
    """Rows of a shard's file, and how many users or items were answered how."""

    table: Any
    counts: dict[str, int]


class _Worker(ABC):
    """What a process keeps open to compute shards of one run."""

    def __init__(self, run: OpenedRun) -> None:
        self._run = run
        self._catalogue = run.replica.catalogue
        self._version = run.plan.version

    def compute(self, shard: int) -> FinishedShard:
        """Compute a shard and write its file."""
        answers = self._answer(shard)
        rows = len(self._run.plan.rows_of(shard))
        return self._run.folder.write_shard(shard, answers.table, rows, answers.counts)

    @abstractmethod
    def _answer(self, shard: int) -> ShardAnswers:
        """Return the answers of a shard."""


class _RecommendWorker(_Worker):
    def __init__(self, run: OpenedRun) -> None:
        super().__init__(run)
        plan = run.plan
        try:
            self._recommender = BatchRecommender(
                run.open_model(), plan.request, run.events(), run.settings, plan.began_at
            )
        except InvalidFields as refused:
            raise ConfigError(f"version {plan.version} cannot obey the rules: {refused}", "correct them") from refused
        self._key = run.folder.read_key()

    def _answer(self, shard: int) -> ShardAnswers:
        users = read_users(self._run.folder, shard)
        if len(users) != len(self._run.plan.rows_of(shard)):
            raise DataError(
                f"{self._run.folder.input_path(shard)} has {len(users)} users, not those of the plan",
                "begin another run with another --out",
            )
        answers = self._recommender.recommend([user.history for user in users])
        counts = Counter(str(answer.source) for answer in answers)
        return self._to_rows(users, answers, dict(sorted(counts.items())))

    def _to_rows(self, users: Sequence[UserHistory], answers: Sequence[Answer], counts: dict[str, int]) -> ShardAnswers:
        ids = [self._answer_id(user.user_id) for user in users]
        drawn = [
            self._recommender.draw(user.history, answer, answer_id)
            for user, answer, answer_id in zip(users, answers, ids, strict=True)
        ]
        if self._run.plan.request.exploration is not None:
            counts = counts | {"explored": sum(each.chance is not None for each in drawn)}
        columns = [
            [user.user_id for user in users],
            [_ids(self._catalogue, each.found.rows) for each in drawn],
            [each.found.score for each in drawn],
            [_codes(self._catalogue, each.found.rows) for each in drawn],
            [self._version] * len(users),
            [answer.served_by for answer in answers],
            [self._attribution(*each) for each in zip(users, answers, drawn, ids, strict=True)],
        ]
        return ShardAnswers(_table(columns, RECOMMENDED), counts)

    def _attribution(self, user: UserHistory, answer: Answer, drawn: Drawn, answer_id: bytes) -> str | None:
        """Return the token of an answer, the same whenever it is computed; ``None`` without a key.

        Nothing says that it was shown: impression events do.
        """
        if self._key is None:
            return None
        plan = self._run.plan
        answered = Answered(
            seconds=plan.began_at,
            subject=subject_of(user.user_id, None),
            version=plan.version,
            item_ids=_ids(self._catalogue, drawn.found.rows),
            served_by=answer.served_by,
            placement=plan.request.placement,
            is_implicit=False,
            chance=drawn.chance,
        )
        return sign(answered, self._key, answer_id)

    def _answer_id(self, user_id: str) -> bytes:
        """Return the id of a user's answer, from which chance comes, too: the same whenever it is computed."""
        plan = self._run.plan
        of_run = f"{plan.began_at} {plan.version} {user_id}".encode()
        secret = b"" if self._key is None else self._key.secret
        return hashlib.blake2b(of_run, digest_size=ANSWER_ID_BYTES, key=secret).digest()


class _ProbabilitiesWorker(_RecommendWorker):
    def _to_rows(self, users: Sequence[UserHistory], answers: Sequence[Answer], counts: dict[str, int]) -> ShardAnswers:
        each = zip(users, answers, strict=True)
        columns = [
            [user.user_id for user in users],
            [_ids(self._catalogue, answer.found.rows) for answer in answers],
            [self._recommender.probabilities(user.history, answer).tolist() for user, answer in each],
            [self._version] * len(users),
            [answer.served_by for answer in answers],
        ]
        return ShardAnswers(_table(columns, PROBABILITIES), counts)


class _AudienceWorker(_RecommendWorker):
    def _to_rows(self, users: Sequence[UserHistory], answers: Sequence[Answer], counts: dict[str, int]) -> ShardAnswers:
        wanted = {self._catalogue.row_of[item_id]: item_id for item_id in self._run.plan.asked.items}
        seen = [
            (wanted[row], user.user_id, place + 1, answer.found.score[place])
            for user, answer in zip(users, answers, strict=True)
            for place, row in enumerate(answer.found.rows.tolist())
            if row in wanted
        ]
        columns = [*([each[at] for each in seen] for at in range(4)), [self._version] * len(seen)]
        return ShardAnswers(_table(columns, AUDIENCE), counts | {"audience": len(seen)})


class _SimilarWorker(_Worker):
    def _answer(self, shard: int) -> ShardAnswers:
        catalogue = self._catalogue
        k = self._run.plan.request.k
        visible = np.flatnonzero(~catalogue.is_hidden)
        numbers = self._run.plan.rows_of(shard)
        rows = visible[numbers.start : numbers.stop]
        found = [find_similar(catalogue, row, k) for row in rows.tolist()]
        columns = [
            _ids(catalogue, rows),
            [_ids(catalogue, each.rows) for each in found],
            [each.cosine for each in found],
            [_codes(catalogue, each.rows) for each in found],
            [each.shared_codes for each in found],
            [self._version] * len(found),
        ]
        return ShardAnswers(_table(columns, SIMILAR), {"similar": len(found)})


_WORKERS: dict[str, type[_Worker]] = {
    "recommend": _RecommendWorker,
    "probabilities": _ProbabilitiesWorker,
    "audience": _AudienceWorker,
    "similar": _SimilarWorker,
}


def shard_computer(folder: RunFolder) -> ComputeShard[FinishedShard]:
    """Return the function that computes shard i of a run; it can be sent to other processes."""
    return partial(_compute_shard, str(folder.path.resolve()))


def _compute_shard(folder: str, shard: int) -> FinishedShard:
    return _open_worker(folder).compute(shard)


@lru_cache(maxsize=1)
def _open_worker(folder: str) -> _Worker:
    """Open what shards of a run need; a process does so once, with its first shard."""
    run_folder = RunFolder(Path(folder))
    plan = run_folder.read_plan()
    if plan is None:
        raise DataError(f"{folder} holds no batch run", "let all machines of the run see the folder under this path")

    set_up_logs(plan.settings().log_level)
    return _WORKERS[plan.asked.kind](open_run(run_folder, plan))


def _ids(catalogue: Catalogue, rows: Any) -> list[str]:
    return [catalogue.item_ids[row] for row in rows.tolist()]


def _codes(catalogue: Catalogue, rows: Any) -> list[list[int]]:
    found: list[list[int]] = catalogue.codes[rows].tolist()
    return found


def _table(columns: Sequence[Any], schema: Any) -> Any:
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)
