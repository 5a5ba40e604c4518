"""Databases and URLs as sources: SQLite, a real PostgreSQL, files of fsspec, and no password anywhere."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import fsspec
import pytest
import sqlalchemy

from model_store.console import run
from model_store.errors import ConfigError, DataError, DownloadError
from tests.support.messy_tables import write_messy_shop
from tests.support.postgres import PASSWORD, USER, find_postgres, running_postgres
from training.cli import app
from training.config import load_config
from training.data import remote
from training.data.prepare import PrepareOptions, prepare
from training.data.remote import fetch, is_database, is_remote, name_of, redacted
from training.data.storage import load_dataset
from training.data.validate import validate
from training.run_folder import RunFolder

QUERY = "select who, sku, bought_at, kind from orders order by bought_at"
OPTIONS = {"columns": {"user": "who", "timestamp": "bought_at", "event": "kind"}, "min_user": 1, "min_item": 1}


def options(**more: object) -> PrepareOptions:
    return PrepareOptions.model_validate({**OPTIONS, "query": QUERY, **more})


@pytest.fixture
def shop(tmp_path: Path) -> str:
    """A SQLite database with 700 orders and 7 products."""
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as database:
        database.execute("create table orders (who text, sku integer, bought_at integer, kind text)")
        rows = [(f"u{n % 30}", n % 7, 1_700_000_000 + n, "view" if n % 3 else None) for n in range(700)]
        database.executemany("insert into orders values (?, ?, ?, ?)", rows)
        database.execute("create table products (sku integer, title text, price real)")
        database.executemany("insert into products values (?, ?, ?)", [(n, f"Product {n}", n + 0.5) for n in range(9)])
    database.close()
    return f"sqlite:///{path}"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("postgresql://shop:hunter2@db:5432/orders", "postgresql://shop:***@db:5432/orders"),
        (
            "postgresql+psycopg://shop:h%40x@db/orders?sslmode=require",
            "postgresql+psycopg://shop:***@db/orders?sslmode=require",
        ),
        ("mysql://db/orders?user=a&password=hunter2", "mysql://db/orders?user=a&password=***"),
        ("https://token@host/x.csv", "https://***@host/x.csv"),
        ("https://host/x.csv?X-Amz-Signature=abc&part=1", "https://host/x.csv?X-Amz-Signature=***&part=1"),
        ("s3://bucket/x@1.csv", "s3://bucket/x@1.csv"),
        ("clicks.csv", "clicks.csv"),
    ],
)
def test_secrets_of_a_url_are_not_shown(source: str, shown: str) -> None:
    assert redacted(source) == shown
    assert redacted(shown) == shown


def test_urls_and_paths_are_told_apart() -> None:
    assert [is_remote(each) for each in ("a.csv", "/a/b", "C:\\a.csv", "s3://b/a.csv", "sqlite:///a")] == [
        0,
        0,
        0,
        1,
        1,
    ]
    assert [is_database(each) for each in ("s3://b/a", "https://h/a", "memory://a", "postgresql://h/a")] == [0, 0, 0, 1]
    assert [name_of(each) for each in ("postgresql://h/orders?x=1", "https://h/a/clicks.csv.gz")] == [
        "orders",
        "clicks",
    ]


def test_a_query_is_prepared_like_a_file(tmp_path: Path, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BATCH", 64)
    said: list[str] = []
    wanted = options(items_query="select * from products", columns={**OPTIONS["columns"], "attributes": ["price"]})  # type: ignore[dict-item]
    dataset = prepare(shop, tmp_path / "out", wanted, said.append)
    assert (dataset.name, dataset.users, dataset.n_items, dataset.interactions) == ("shop", 30, 7, 700)
    row = dataset.item_ids.index("3")
    assert (dataset.titles[row], dataset.attributes[row]) == ("Product 3", {"price": 3.5})
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir()]  # copies are removed
    assert all(check.passed for check in validate(shop, wanted, said.append))


def test_a_changed_database_is_read_again_when_asked(tmp_path: Path, shop: str) -> None:
    first = prepare(shop, tmp_path / "out", options(), lambda line: None)
    with sqlite3.connect(shop.removeprefix("sqlite:///")) as database:
        database.execute("insert into orders values ('new', 1, 1800000000, 'view')")
    database.close()
    assert prepare(shop, tmp_path / "out", options(), lambda line: None).fingerprint == first.fingerprint
    again = prepare(shop, tmp_path / "out", options(), lambda line: None, fetch_again=True)
    assert again.interactions == first.interactions + 1


@pytest.mark.parametrize(
    ("query", "error", "words"),
    [
        ("", ConfigError, "the query is missing"),
        ("select * from nowhere", DownloadError, "no such table: nowhere"),
        ("select 1 as a union all select 'x'", None, ""),
    ],
)
def test_queries_that_fail_say_why(
    tmp_path: Path, shop: str, query: str, error: type[Exception] | None, words: str
) -> None:
    if error is None:
        assert fetch(shop, query, tmp_path, lambda line: None).exists()
        return
    with pytest.raises(error, match=words):
        fetch(shop, query, tmp_path, lambda line: None)


def test_a_column_that_changes_its_type_is_named(tmp_path: Path, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BATCH", 100)
    query = "select case when bought_at < 1700000350 then 1 else 'x' end as flag from orders order by bought_at"
    with pytest.raises(DataError, match=r"the column 'flag' of the query is Int64 at first and String after row 300"):
        fetch(shop, query, tmp_path, lambda line: None)


def test_a_query_goes_with_a_database(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--query needs a database"):
        prepare("clicks.csv", tmp_path, options(), lambda line: None)
    with pytest.raises(ConfigError, match="--query goes with a database"):
        fetch("memory://x.csv", "select 1", tmp_path, lambda line: None)


def test_an_unknown_scheme_and_a_missing_driver_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a file system nor a database"):
        fetch("nosuch://host/x", "select 1", tmp_path, lambda line: None)
    with pytest.raises(ConfigError, match=r"oracle://me:\*\*\*@host/x: the driver \w+ is not installed"):
        fetch("oracle://me:hunter2@host/x", "select 1", tmp_path, lambda line: None)


def test_files_behind_urls_are_read(tmp_path: Path) -> None:
    shop = write_messy_shop(tmp_path)
    memory = fsspec.filesystem("memory")
    for path in (shop.interactions, shop.items):
        memory.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    wanted = PrepareOptions.model_validate(
        {"items_file": "memory://bucket/products.csv", "skip_bad": True, "columns": {"items_key": "product number"}}
    )
    dataset = prepare("memory://bucket/orders.csv", tmp_path / "out", wanted, lambda line: None)
    assert (dataset.name, dataset.interactions) == ("orders", len(shop.meant))
    with pytest.raises(DownloadError, match=r"memory://bucket/absent.csv cannot be fetched"):
        prepare("memory://bucket/absent.csv", tmp_path / "other", wanted, lambda line: None)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    binaries = find_postgres()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    # Not below pytest's folder: another user runs the server, and may not look into that one.
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder, running_postgres(binaries, Path(folder)) as place:
        yield place


def test_postgresql_is_read_as_a_stream_and_its_password_stays_secret(
    tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote, "BATCH", 1000)
    url = f"postgresql://{USER}:{quote(PASSWORD, safe='')}@{postgres}/postgres"
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        for statement in (
            "create table orders (who uuid, sku bigint, bought_at timestamptz, kind text)",
            "insert into orders select md5(mod(n, 50)::text)::uuid, mod(n, 20), to_timestamp(1700000000 + n), 'view' "
            "from generate_series(1, 5000) n",
            "create table products as select n::bigint as sku, 'Title ' || n as title, "
            "(n + 0.99)::numeric(8, 2) as price, mod(n, 2) = 0 as sold from generate_series(0, 24) n",
        ):
            connection.exec_driver_sql(statement)
    engine.dispose()

    arguments = ["--data", url, "--query", QUERY, "--user", "who", "--timestamp", "bought_at", "--event", "kind"]
    arguments += ["--items-query", "select * from products", "--attributes", "price,sold"]
    assert run(app, "etegrec-train", ["prepare", *arguments, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    dataset = load_dataset(tmp_path / "out")
    row = dataset.item_ids.index("7")
    assert (dataset.titles[row], dataset.attributes[row]) == ("Title 7", {"price": 7.99, "sold": False})
    assert dataset.timestamps.max() == 1700005000
    assert "postgres: 50 users, 20 items, 5,000 interactions" in printed.out + printed.err

    wrong = ["prepare", "--data", url.replace("s3cret", "wr0ng"), "--query", QUERY, "--out", str(tmp_path / "no")]
    assert run(app, "etegrec-train", wrong) == 4
    failed = capsys.readouterr().err
    assert "password authentication failed" in failed
    for secret in (PASSWORD, quote(PASSWORD, safe=""), "wr0ng"):
        assert secret not in printed.out + printed.err + failed
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_a_run_folder_keeps_no_password_and_compares_sources_without(tmp_path: Path) -> None:
    config = load_config("demo", ['data.items_file="https://me:hunter2@host/items.csv"'])
    url = "postgresql://shop:hunter2@db/orders"
    first = RunFolder.create_or_resume(tmp_path, config, url)
    assert first.source == url
    assert "hunter2" not in (tmp_path / "config.json").read_text()
    (tmp_path / "sasrec.safetensors").write_bytes(b"")
    assert RunFolder.create_or_resume(tmp_path, config, url.replace("hunter2", "rotated")).has_trained
    with pytest.raises(ConfigError, match="its password is not stored"):
        fetch(RunFolder.open(tmp_path).source, "select 1", tmp_path, lambda line: None)
