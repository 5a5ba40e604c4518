"""The command on a small model: what it writes, what it refuses, how it goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_store.attribution.keys import AttributionKeys
from model_store.attribution.names import hash_of
from model_store.attribution.token import Attribution, hash_subject, verify
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from tests.support.batch_runs import answers, batch, manifest, walks, write_users
from tests.support.bundles import NOON, bundle_files, description, small_histories


def test_every_user_gets_one_row(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    histories = {**walks(5), "new": [], "null": None, "stranger": ["no-such-item"]}
    users = write_users(tmp_path / "users.parquet", histories)
    out = tmp_path / "out"
    assert batch("recommend", store, out, "--users", str(users), "--k", "4", "--shard-size", "3", "--json") == 0

    rows = answers(out)
    assert [row["user"] for row in rows] == sorted(histories)
    assert {row["version"] for row in rows} == {ModelStore(store).live()}
    catalogue = ModelStore(store).bundle().catalogue()
    for row in rows:
        assert len(row["items"]) == len(set(row["items"])) == len(row["scores"]) == 4
        assert not set(row["items"]) & set(histories[row["user"]] or ())
        assert row["codes"] == [catalogue.codes[catalogue.row_of[item]].tolist() for item in row["items"]]
        assert row["scores"] == sorted(row["scores"], reverse=True)
    popular = {row["user"] for row in rows if row["served_by"] == "popular"}
    assert popular == {"new", "null", "stranger"}

    done = json.loads(capsys.readouterr().out)
    assert (done["rows"], done["shards"]) == (8, 3)
    assert done["counts"] == {"model": 5, "no_history": 2, "unknown_items": 1}
    assert [line["rows"] for line in manifest(out)] == [3, 3, 2]
    assert not (out / "inputs").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--filter", '{"categorys": ["a"]}'], 3, "filter.categorys: does not exist; did you mean categories?"),
        (["--filter", "nojson"], 3, "--filter is not JSON: Expecting value at line 1 column 1"),
        (["--filter", '{}, "user_id": "x"'], 3, "--filter is not JSON: Extra data at line 1 column 3"),
        (["--filter", '{}, "k": 3'], 3, "--filter is not JSON: Extra data"),
        (["--filter", '{"deny": ["a"], "deny": []}'], 3, "repeats a key"),
        (["--filter", "[" * 100_000], 3, "--filter is not JSON"),
        (["--filter", "[]"], 3, "the rules of the run: filter: "),
        (["--filter", '{"attributes": [{"field": "yaer", "gte": 1}]}'], 3, "fields with numbers: year"),
        (["--k", "101"], 3, "k: must be at most 100"),
        (["--k", "0"], 3, "k: Input should be greater than or equal to 1"),
        (["--exclude-seen", "buy"], 3, "exclude_seen"),
        (["--max-per-prefix", "0"], 3, "max_per_prefix"),
        (["--rules", "{"], 3, "--rules is not JSON"),
        (["--rules", '{"k": 3}'], 3, "fields of boosts, exploration, max_per_prefix, pins, steer"),
        (["--rules", '{"pins": [{"position": 0, "item": "a"}]}'], 3, "pins.0.position"),
        (["--rules", '{"max_per_prefix": {"4": 1}}'], 3, "max_per_prefix.4: must be at most 3 codes"),
        (["--rules", '{"max_per_prefix": 2}', "--max-per-prefix", "2"], 3, "repeats a key"),
        (
            ["--rules", '{"boosts": [{"nats": 1, "attributes": [{"field": "yaer", "gte": 1}]}]}'],
            3,
            "boosts.0.attributes.0.field",
        ),
        (["--histories", "redis"], 3, "choose from file, store, training"),
        (["--user", "visitor"], 4, "visitor"),
        (["--version", "20200101t000000z-00000000"], 6, "no version"),
    ],
)
def test_wrong_options_are_named(
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    words: str,
) -> None:
    users = write_users(tmp_path / "users.parquet", walks(2))
    assert batch("recommend", store, tmp_path / "out", "--users", str(users), *options) == code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out" / "plan.json").exists()


def test_urls_are_no_paths(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    users = write_users(tmp_path / "users.parquet", walks(2))
    assert batch("recommend", store, "s3://bucket/x", "--users", str(users)) == 3
    assert "s3://bucket/x is a URL" in capsys.readouterr().err
    assert batch("recommend", store, tmp_path / "out", "--users", "s3://bucket/users.parquet") == 3
    assert "s3://bucket/users.parquet is a URL" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "users.parquet"]


def test_answers_obey_boosts_pins_and_limits(store: Path, tmp_path: Path) -> None:
    users = write_users(tmp_path / "users.parquet", {**walks(3), "new": []})
    rules = {
        "boosts": [{"nats": 20, "items": ["item-30"]}, {"nats": 20, "items": ["item-31"], "until": 5}],
        "pins": [{"position": 2, "item": "item-33"}, {"position": 1, "item": "unknown"}],
        "max_per_prefix": {"2": 1},
    }
    options = ["--users", str(users), "--k", "12", "--rules", json.dumps(rules)]
    assert batch("recommend", store, tmp_path / "out", *options) == 0
    rows = answers(tmp_path / "out")
    assert {row["served_by"] for row in rows} == {"model", "popular"}
    for row in rows:
        assert row["items"][:2] == ["item-30", "item-33"]
        assert len({tuple(codes[:2]) for codes in row["codes"]}) == len(row["codes"]) == 12

    assert batch("recommend", store, tmp_path / "out", *options) == 0  # resumed: the plan holds the same rules
    assert batch("recommend", store, tmp_path / "out", *options[:-2]) == 3


def test_users_are_needed_unless_the_training_data_has_them(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert batch("recommend", store, tmp_path / "out") == 3
    assert "--histories file needs --users" in capsys.readouterr().err
    pq.write_table(pa.table({"user_id": ["u"]}), tmp_path / "bare.parquet")
    assert batch("recommend", store, tmp_path / "out", "--users", str(tmp_path / "bare.parquet")) == 4
    assert "has no column 'history'" in capsys.readouterr().err
    assert batch("recommend", store, tmp_path / "out", "--histories", "training") == 5
    assert "has no histories.parquet" in capsys.readouterr().err


def test_a_filter_that_nothing_passes_is_said(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    users = write_users(tmp_path / "users.parquet", {"u": ["item-1"], "new": [], "stranger": ["no-such-item"]})
    options = ["--users", str(users), "--filter", '{"categories": ["catgory-1"]}']
    assert batch("recommend", store, tmp_path / "out", *options) == 0
    said = capsys.readouterr()
    assert "all answers are empty" in said.err
    assert "nothing, since no item passes the filter: 3" in said.out
    assert "answered by the model" not in said.out
    served_by = {row["user"]: (row["items"], row["served_by"]) for row in answers(tmp_path / "out")}
    assert served_by == {"u": ([], "model"), "new": ([], "popular"), "stranger": ([], "popular")}


def test_histories_of_the_training_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = ModelStore(tmp_path / "models")
    bought = {"ann": [("item-1", 1, 3), ("item-2", 2, 0)], "ben": [("item-3", 1, 3)], "cleo": [("item-9", 5, 0)]}
    content = {**bundle_files(), "histories.parquet": small_histories(bought)}
    models.promote(publish(models, content, description(), NOON))

    assert batch("recommend", tmp_path / "models", tmp_path / "all", "--histories", "training", "--k", "40") == 0
    by_user = {row["user"]: row for row in answers(tmp_path / "all")}
    assert by_user.keys() == bought.keys()
    # Bought items are left out, seen ones are not.
    assert "item-1" not in by_user["ann"]["items"]
    assert "item-2" in by_user["ann"]["items"]
    assert len(by_user["cleo"]["items"]) == 40

    pq.write_table(pa.table({"customer": ["zoe", "ben"]}), tmp_path / "some.parquet")
    options = ["--histories", "training", "--users", str(tmp_path / "some.parquet"), "--k", "40"]
    assert batch("recommend", tmp_path / "models", tmp_path / "some", *options) == 0
    ben, zoe = answers(tmp_path / "some")
    assert ben == by_user["ben"]
    assert (zoe["user"], zoe["served_by"]) == ("zoe", "popular")
    assert "popular items, for lack of a history: 1" in capsys.readouterr().out


def test_audience_and_recommendations_agree(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    users = write_users(tmp_path / "users.parquet", {**walks(30), "new": []})
    options = ["--users", str(users), "--k", "5", "--shard-size", "8"]
    assert batch("recommend", store, tmp_path / "all", *options) == 0
    wanted = ["item-12", "item-5"]
    asked = [word for item in wanted for word in ("--item", item)]
    assert batch("audience", store, tmp_path / "some", *options, *asked) == 0

    expected: list[dict[str, Any]] = [
        {"item": item, "user": row["user"], "rank": rank, "score": score, "version": row["version"]}
        for row in answers(tmp_path / "all")
        for rank, (item, score) in enumerate(zip(row["items"], row["scores"], strict=True), 1)
        if item in wanted
    ]
    assert expected
    found = answers(tmp_path / "some")
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert f"users who would see an item, counted for each item: {len(expected)}" in capsys.readouterr().out

    assert batch("audience", store, tmp_path / "none", *options, "--item", "no-such-item") == 4
    assert "no visible item 'no-such-item'" in capsys.readouterr().err


def test_similar_items_of_every_item(store: Path, tmp_path: Path) -> None:
    from service.answers.similar import find_similar

    assert batch("similar", store, tmp_path / "out", "--k", "3", "--shard-size", "15") == 0
    rows = answers(tmp_path / "out", key="item")
    catalogue = ModelStore(store).bundle().catalogue()
    assert [row["item"] for row in rows] == sorted(catalogue.item_ids)
    for row in rows:
        expected = find_similar(catalogue, catalogue.row_of[row["item"]], 3)
        assert row["items"] == [catalogue.item_ids[each] for each in expected.rows.tolist()]
        assert row["shared_codes"] == expected.shared_codes.tolist()
        assert row["scores"] is None  # this model has no vectors


def test_answers_carry_tokens_of_the_service(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = write_users(tmp_path / "users.parquet", {**walks(5), "new": []})
    assert batch("recommend", store, tmp_path / "without", "--users", str(users), "--k", "4") == 0
    assert {row["attribution"] for row in answers(tmp_path / "without")} == {None}

    monkeypatch.setenv("ETEGREC_ATTRIBUTION_KEYS", "a secret of the shop")
    keys = AttributionKeys.of([b"a secret of the shop"], "")
    out = tmp_path / "out"
    assert batch("recommend", store, out, "--users", str(users), "--k", "4", "--shard-size", "2") == 0
    for row in answers(out):
        token = verify(row["attribution"], keys, 600, int(time.time()))
        assert isinstance(token, Attribution)
        assert token.version == hash_of(row["version"])
        assert token.subject == hash_subject(f"u{row['user']}", keys.signing)
        assert [token.rank(item) for item in row["items"]] == [1, 2, 3, 4]
        assert (token.served_by, token.is_implicit, token.propensities) == (row["served_by"], False, None)
    assert not (out / "inputs").exists()
    assert b"a secret" not in (out / "plan.json").read_bytes()


def test_places_are_left_to_chance_with_probabilities_in_the_token(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    users = write_users(tmp_path / "users.parquet", {**walks(8), "new": []})
    exploration = {"exploration": {"temperature": 4.0, "slots": 2}}
    pins = [{"position": 1, "item": "item-30"}]
    rules = ["--rules", json.dumps({"pins": pins, **exploration}), "--k", "4"]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"k": 4, "pins": pins, **exploration}))
    assert batch("probabilities", store, tmp_path / "told", "--users", str(users), "--placement-file", str(file)) == 0
    told = {row["user"]: row for row in answers(tmp_path / "told")}

    monkeypatch.setenv("ETEGREC_ATTRIBUTION_KEYS", "a secret of the shop")
    keys = AttributionKeys.of([b"a secret of the shop"], "")
    capsys.readouterr()
    assert batch("recommend", store, tmp_path / "out", "--users", str(users), *rules, "--json") == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"explored": 9, "model": 8, "no_history": 1}

    rows = answers(tmp_path / "out")
    assert rows[0]["items"][0] == "item-30"
    assert any(row["items"] != told[row["user"]]["items"][:4] for row in rows), "chance changed something"
    for row in rows:
        may_come = told[row["user"]]
        assert row["items"][:2] == may_come["items"][:2]
        token = verify(row["attribution"], keys, 600, int(time.time()))
        assert isinstance(token, Attribution)
        assert [token.rank(item) for item in row["items"]] == [1, 2, 3, 4]
        places = [may_come["items"].index(item) for item in row["items"]]
        expected = [may_come["probabilities"][at][place] for place, at in enumerate(places)]
        assert token.propensities is not None
        assert np.allclose(token.propensities, expected, rtol=0.033)
        assert (token.propensities[2:] < 1).all()


def test_nothing_is_left_to_chance_where_nothing_could_be_learned(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--users", str(write_users(tmp_path / "users.parquet", walks(4))), "--k", "4"]
    rules = ["--rules", '{"exploration": {"temperature": 1000, "share": 1}}']
    assert batch("recommend", store, tmp_path / "plain", *given) == 0
    capsys.readouterr()
    assert batch("recommend", store, tmp_path / "without", *given, *rules) == 0
    assert "without attribution nothing could be learned" in capsys.readouterr().err

    plain, without = (answers(tmp_path / name) for name in ("plain", "without"))
    assert [row["items"] for row in without] == [row["items"] for row in plain]

    monkeypatch.setenv("ETEGREC_ATTRIBUTION_KEYS", "a secret of the shop")
    assert batch("audience", store, tmp_path / "audience", *given, *rules, "--item", "item-1") == 0
    assert "an audience is who would see an item without chance" in capsys.readouterr().err


def test_probabilities_of_all_that_may_come(store: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    users = write_users(tmp_path / "users.parquet", {**walks(3), "new": []})
    for name, exploration in (("best", None), ("wild", {"temperature": 4.0, "slots": 2})):
        pins = [{"position": 1, "item": "item-30"}]
        rules.write_text(json.dumps({"k": 4, "pins": pins, "exploration": exploration}))
        given = ["--users", str(users), "--placement-file", str(rules)]
        assert batch("probabilities", store, tmp_path / name, *given) == 0

    for best, wild in zip(answers(tmp_path / "best"), answers(tmp_path / "wild"), strict=True):
        assert np.array_equal(best["probabilities"], np.eye(4))
        told = np.array(wild["probabilities"])
        assert told.shape == (len(wild["items"]), 4)
        assert wild["items"][:4] == best["items"]
        assert wild["items"][0] == "item-30"
        assert np.allclose(told.sum(axis=0), 1, atol=1e-5)
        assert (told[:, 0] == 1).tolist() == (told[:, 1] == 1)[[1, 0, *range(2, len(told))]].tolist()
        assert ((told[2:, 2:] > 0) & (told[2:, 2:] < 1)).all()


def test_a_placement_file_is_checked(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    users = write_users(tmp_path / "users.parquet", walks(2))
    rules = tmp_path / "rules.json"
    rules.write_text('{"exploration": {"slots": 26}}')
    given = ["--users", str(users), "--placement-file"]
    assert batch("probabilities", store, tmp_path / "out", *given, str(rules)) != 0
    assert "exploration.slots" in capsys.readouterr().err
    assert batch("probabilities", store, tmp_path / "out", *given, str(tmp_path / "none.json")) != 0
    assert "none.json cannot be read" in capsys.readouterr().err


def test_a_users_file_may_have_types(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "users.parquet"

    def run(types: list[list[str | None]], out: str) -> int:
        columns = {"user_id": ["a"], "history": [["item-3", "item-4"]], "history_types": types}
        pq.write_table(pa.table(columns), path)
        options = ["--users", str(path), "--k", "38", "--exclude-seen", "purchase"]
        return batch("recommend", store, tmp_path / out, *options)

    assert run([["view", "purchase"]], "typed") == 0
    [row] = answers(tmp_path / "typed")
    assert ("item-3" in row["items"], "item-4" in row["items"]) == (True, False)
    assert run([["view"]], "short") != 0
    assert "'history_types' has 1 entries, 'history' has 2" in capsys.readouterr().err
    assert run([["view", "impression"]], "shown") != 0
    assert "an impression is no interaction" in capsys.readouterr().err
