"""Every input format on small files, and the errors that tell what is wrong with them."""

import gzip
import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model_store.errors import DataError
from model_store.source_files.column_names import Columns
from model_store.source_files.intake import Intake
from training.data.dataset import ItemInfo
from training.data.filters import k_core
from training.data.item_files import read_items
from training.data.prepare import PrepareOptions, prepare
from training.data.raw import display_title, split_movie_title
from training.data.readers import ReadOptions, read_source

Triples = list[tuple[str, str, int]]


def read(path: Path, **options: object) -> Triples:
    return read_source(path, ReadOptions.model_validate(options)).interactions.rows()


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_header_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "clicks.inter"
    path.write_bytes(b"user_id:token\t\xff\xfe\n")
    with pytest.raises(DataError, match=r"no column 'item_id'; its columns are user_id:token, ÿþ"):
        read(path)


def test_csv_keeps_ids_as_text_and_sorts_by_time(tmp_path: Path) -> None:
    path = written(tmp_path / "clicks.csv", 'item_id,note,user_id,timestamp\n007,"a, b",u1,20\n7,,u1,10\n')
    assert read(path) == [("u1", "7", 10), ("u1", "007", 20)]


def test_named_columns_and_compressed_csv(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv.gz"
    path.write_bytes(gzip.compress(b"who,what,when\nann,tea,3\n"))
    columns = {"user": "who", "item": "what", "timestamp": "when"}
    assert read(path, columns=columns) == [("ann", "tea", 3)]


def test_csv_without_times_keeps_the_order_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "clicks.csv", "user,item\nu,z\nu,a\n")
    assert read(path) == [("u", "z", 0), ("u", "a", 0)]


@pytest.mark.parametrize("scale", [1, 10**3, 10**6, 10**9])
def test_time_units_become_seconds_but_order_by_the_finer_one(tmp_path: Path, scale: int) -> None:
    late = 1_700_000_000 * scale + scale // 2
    path = written(tmp_path / "c.csv", f"user,item,timestamp\nu,later,{late}\nu,first,{late - scale // 4}\n")
    expected = ["first", "later"] if scale > 1 else ["later", "first"]
    assert read(path) == [("u", item, 1_700_000_000) for item in expected]


def test_dates_are_read_as_utc(tmp_path: Path) -> None:
    rows = "u,b,2020-01-01T00:00:02Z\nu,a,2020-01-01T00:00:01Z\n"
    path = written(tmp_path / "c.csv", "user,item,timestamp\n" + rows)
    assert read(path) == [("u", "a", 1577836801), ("u", "b", 1577836802)]


def test_parquet_with_integer_ids_and_dates(tmp_path: Path) -> None:
    times = [datetime(2020, 1, 1, 0, 0, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)]
    pl.DataFrame({"user": [1, 1], "item": [10, 20], "time": times}).write_parquet(tmp_path / "c.parquet")
    assert read(tmp_path / "c.parquet") == [("1", "20", 1577836800), ("1", "10", 1577836801)]


def test_amazon_2014_reviews_and_metadata(tmp_path: Path) -> None:
    review = {"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1400000000, "reviewText": "fine"}
    path = tmp_path / "reviews_Tiny_5.json.gz"
    path.write_bytes(gzip.compress(json.dumps(review).encode() + b"\n"))
    meta = {"asin": "B1", "title": "Soap", "categories": [["Beauty", "Bath"], ["Beauty"]], "brand": "Acme"}
    items = written(tmp_path / "meta.jsonl", json.dumps(meta) + "\n")
    options = ReadOptions(items_file=str(items), columns=Columns(attributes=("brand",)))
    raw = read_source(path, options)
    assert raw.interactions.rows() == [("A1", "B1", 1400000000)]
    assert (raw.items["B1"].title, raw.items["B1"].categories) == ("Soap", ("Beauty", "Bath"))
    assert raw.items["B1"].attributes == {"brand": "Acme"}


def test_amazon_ratings(tmp_path: Path) -> None:
    old = written(tmp_path / "ratings_Tiny.csv", "A1,B1,5.0,1400000000\nA2,B1,4.0,1300000000\n")
    assert read(old, format="amazon-ratings") == [("A2", "B1", 1300000000), ("A1", "B1", 1400000000)]
    new = written(tmp_path / "Tiny.csv", "user_id,parent_asin,rating,timestamp\nA1,B1,5.0,1588687728923\n")
    assert read(new) == [("A1", "B1", 1588687728)]


def test_amazon_ratings_are_recognised_without_a_header_and_compressed(tmp_path: Path) -> None:
    path = tmp_path / "ratings_Tiny.csv.gz"
    path.write_bytes(gzip.compress(b"A1,B1,5.0,1400000000\nA2,B1,4.0,1300000000\n"))
    assert read(path) == [("A2", "B1", 1300000000), ("A1", "B1", 1400000000)]
    history = written(tmp_path / "Tiny.train.csv", "user_id,parent_asin,rating,timestamp,history\nA1,B2,5.0,1,B1 B0\n")
    assert read(history) == [("A1", "B2", 1)]


def test_amazon_2014_metadata_are_python_literals(tmp_path: Path) -> None:
    path = tmp_path / "meta_Tiny.json.gz"
    rows = [
        {"asin": "B1", "title": "Ann's Soap", "categories": [["Beauty"]], "salesRank": {"Beauty": 3}},
        {"asin": "B2"},
    ]
    path.write_bytes(gzip.compress("".join(f"{row!r}\n" for row in rows).encode()))
    items = read_items(path, Columns(), Intake(tmp_path))
    assert items == {"B1": ItemInfo("Ann's Soap", ("Beauty",)), "B2": ItemInfo()}
    path.write_bytes(gzip.compress(b"{'asin': 'B1'}\n{'asin': __import__('os')}\n"))
    with pytest.raises(DataError, match="line 2 is not a dictionary"):
        read_items(path, Columns(), Intake(tmp_path))


def test_a_folder_of_parts_is_one_log(tmp_path: Path) -> None:
    written(tmp_path / "part-1.csv", "user,item,timestamp\nu,c,7\nu,d,5\n")
    written(tmp_path / "part-0.csv", "user,item,timestamp\nu,z,7\n")
    written(tmp_path / "_SUCCESS", "")
    assert read(tmp_path) == [("u", "d", 5), ("u", "z", 7), ("u", "c", 7)]
    written(tmp_path / "part-1.csv", "user,item,timestamp\nu,c,7\nu,,5\n")
    with pytest.raises(DataError, match=r"part-1.csv line 3: item id is empty"):
        read(tmp_path)
    written(tmp_path / "more.tsv", "user\titem\nu\tc\n")
    with pytest.raises(DataError, match="tables in one format"):
        read(tmp_path)


def test_ties_keep_the_file_order_over_many_rows(tmp_path: Path) -> None:
    rows = [(f"u{n % 7}", f"i{n}", n // 5000) for n in range(200_000)]
    frame = pl.DataFrame(rows[::-1], schema=["user", "item", "timestamp"], orient="row")
    frame.write_csv(tmp_path / "c.csv")
    expected = rows[::-1]
    expected.sort(key=lambda row: row[2])
    assert read(tmp_path / "c.csv") == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2020-01-01", 1577836800),
        ("2020-01-01 00:01", 1577836860),
        ("2020-01-01T00:00:01.5", 1577836801),
        ("2020-01-01T01:00:01+01:00", 1577836801),
    ],
)
def test_spellings_of_iso_dates_may_be_mixed(tmp_path: Path, text: str, seconds: int) -> None:
    path = written(tmp_path / "c.csv", f"user,item,timestamp\nu,a,{text}\nu,b,2030-01-01\n")
    assert read(path)[0] == ("u", "a", seconds)


def test_a_date_that_is_ambiguous_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: timestamp is neither Unix time nor ISO 8601: '03/04/2020'"):
        read(written(tmp_path / "c.csv", "user,item,timestamp\nu,a,03/04/2020\n"))


def test_recbole_with_items(tmp_path: Path) -> None:
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    path = written(tmp_path / "tiny.inter", header + "1\t2\t3\t8.0\n1\t3\t3\t7\n")
    written(
        tmp_path / "tiny.item",
        'item_id:token\tmovie_title:token_seq\tclass:token_seq\n2\t"Quoted" Film\tSci-Fi Children\'s\n',
    )
    raw = read_source(path, ReadOptions())
    assert raw.interactions.rows() == [("1", "3", 7), ("1", "2", 8)]
    assert raw.items["2"].title == '"Quoted" Film'
    assert raw.items["2"].categories == ("Sci-Fi", "Children's")
    assert read(tmp_path) == raw.interactions.rows()


@pytest.mark.parametrize("packed", [False, True])
def test_movielens_1m(tmp_path: Path, packed: bool) -> None:
    files = {
        "ratings.dat": b"1::10::5::978300760\n1::20::3::978300750\n",
        "movies.dat": "10::Misérables, Les (1995)::Drama|Musical\n20::Babe (1995)::Comedy\n".encode("latin-1"),
    }
    path = tmp_path / "ml-1m.zip" if packed else tmp_path
    if packed:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(f"ml-1m/{name}", content)
    else:
        for name, content in files.items():
            (path / name).write_bytes(content)
    raw = read_source(path, ReadOptions())
    assert raw.interactions.rows() == [("1", "20", 978300750), ("1", "10", 978300760)]
    assert raw.items["10"].title == "Les Misérables"
    assert raw.items["10"].categories == ("Drama", "Musical")
    assert raw.items["10"].attributes == {"year": 1995}


def test_text_sequences(tmp_path: Path) -> None:
    path = written(tmp_path / "seq.txt", "u1 c a b\n\nu2 a\n")
    assert read(path) == [("u1", "c", 0), ("u1", "a", 0), ("u1", "b", 0), ("u2", "a", 0)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.csv", "user,price,timestamp\nu,1,2\n", r"no item column .*its columns are user, price, timestamp"),
        ("c.csv", "user,item,timestamp\nu,a,1\nu,b,soon\n", "c.csv line 3: timestamp .*'soon'"),
        ("c.csv", "user,item,timestamp\nu,a,1\nu,b,\n", "c.csv line 3: timestamp"),
        ("c.csv", "user,item,timestamp\nu,a,-5\n", "c.csv line 2: timestamp"),
        ("c.csv", "user,item,timestamp\nu,,1\n", "c.csv line 2: item id is empty"),
        ("c.csv", "user,item,timestamp\nu,a,NaN\nu,b,1\n", "c.csv line 2: timestamp"),
        ("c.csv", "user,item,timestamp\n", "no interactions"),
        ("c.csv", "", "empty"),
        ("c.jsonl", '{"user": "u", "item": "i"\n', "cannot be read"),
        ("c.jsonl", '{"user": "u", "item": "i", "time": "later"}\n', "c.jsonl line 1: timestamp"),
        ("c.parquet", "no parquet", "cannot be read"),
        ("c.inter", "user_id:token\titem:token\nu\ti\n", "no column 'item_id'"),
        ("c.txt", "u1 a\nu2\n", "line 2: user has no items"),
        ("c.txt", "\n", "no interactions"),
        ("c.xyz", "u i", "not recognised"),
    ],
)
def test_errors_name_the_cause(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(written(tmp_path / name, text))


def test_a_wrong_mapping_and_missing_files_are_errors(tmp_path: Path) -> None:
    path = written(tmp_path / "c.csv", "user,item,when\nu,i,1\n")
    with pytest.raises(DataError, match=r"no column 'nope'; its columns are user, item, when"):
        read(path, columns={"timestamp": "nope"})
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="does not exist"):
        read(path, items_file=str(tmp_path / "absent.csv"))


def test_titles_are_shown_as_people_write_them() -> None:
    assert display_title("Enfer, L'") == "L'Enfer"
    assert display_title("Horseman on the Roof, The (Hussard, Le)") == "The Horseman on the Roof (Hussard, Le)"
    assert display_title("Paris, Texas") == "Paris, Texas"
    assert split_movie_title("2001: A Space Odyssey (1968)") == ("2001: A Space Odyssey", {"year": 1968})
    assert split_movie_title("Land Before Time III (1995) (V)") == ("Land Before Time III", {"year": 1995})
    assert split_movie_title("unknown") == ("unknown", {})


def test_k_core_is_iterated_to_its_fixed_point() -> None:
    # z is rare; without it u3 has one interaction; without u3, y is rare as well
    pairs = [("u1", "x"), ("u1", "w"), ("u2", "x"), ("u2", "w"), ("u3", "y"), ("u3", "z"), ("u4", "y"), ("u4", "x")]
    user, item = (np.unique(column, return_inverse=True)[1].astype(np.int32) for column in zip(*pairs, strict=True))
    assert k_core(user, item, 2, 2).tolist() == [True] * 4 + [False] * 4
    assert k_core(user, item, 1, 1).all()
    assert not k_core(user, item, 9, 9).any()


def test_prepare_filters_saves_and_reuses(tmp_path: Path) -> None:
    source = written(tmp_path / "seq.txt", "u1 a b c\nu2 a b\nu3 c\n")
    said: list[str] = []
    options = PrepareOptions(min_user=2, min_item=1, min_length=3)
    dataset = prepare(str(source), tmp_path / "out", options, said.append)
    assert dataset.user_ids.to_list() == ["u1"]
    assert "1 users, 3 items, 3 interactions" in said[-1]
    assert prepare(str(source), tmp_path / "out", options, said.append).fingerprint == dataset.fingerprint
    assert "reused" in said[-1]

    wider = prepare(str(source), tmp_path / "out", options.model_copy(update={"min_length": 1}), said.append)
    assert wider.user_ids.to_list() == ["u1", "u2"]
    written(source, "u1 a b c d\n")
    assert prepare(str(source), tmp_path / "out", options, said.append).interactions == 4
    assert "reused" not in said[-1]


def test_prepare_repairs_a_damaged_folder(tmp_path: Path) -> None:
    source = written(tmp_path / "seq.txt", "u1 a b c\n")
    options = PrepareOptions(min_user=1, min_item=1)
    first = prepare(str(source), tmp_path / "out", options, lambda line: None)
    (tmp_path / "out" / "items.parquet").write_bytes(b"")
    assert prepare(str(source), tmp_path / "out", options, lambda line: None).fingerprint == first.fingerprint


def test_shuffled_ties_do_not_depend_on_the_order_of_the_input(tmp_path: Path) -> None:
    items = [f"i{number:02}" for number in range(20)]
    options = PrepareOptions(min_user=1, min_item=1, ties="shuffled")
    orders = []
    for order in (items, items[::-1]):
        rows = "".join(f"u,{item},5\n" for item in order) + "u,last,6\n"
        source = written(tmp_path / "c.csv", "user,item,timestamp\n" + rows)
        dataset = prepare(str(source), tmp_path / "out", options, lambda line: None)
        orders.append([dataset.item_ids[row] for row in dataset.sequence(0)])
    assert orders[0] == orders[1] != [*items, "last"]
    assert orders[0][-1] == "last"


def test_nothing_left_after_filtering_is_an_error(tmp_path: Path) -> None:
    source = written(tmp_path / "seq.txt", "u1 a b c\n")
    with pytest.raises(DataError, match="no interactions are left"):
        prepare(str(source), tmp_path / "out", PrepareOptions(), lambda line: None)
