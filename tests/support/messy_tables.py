"""A shop's export as it comes: interactions and items in files with every mess that real exports have.

The mess is known exactly, so that tests can compare what was read with what was meant.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

USERS = 60
ITEMS = 40
UNSOLD = 8
"""Items of the items file that nobody has bought."""

START = 1_700_000_000
GENRES = ("Action", "Rôle-Play", "Strategy", "Home, Garden", "Puzzle")
EVENTS = ("view", "purchase")

Interaction = tuple[str, str, int, str]  # user, item, Unix seconds, type


@dataclass(frozen=True)
class MessyShop:
    """Files of a shop, and what is meant by them."""

    interactions: Path
    items: Path
    meant: list[Interaction]  # in order of the file, without duplicates and bad lines
    bad_lines: dict[int, str]  # line number and text of the lines that cannot be used
    duplicates: int
    surplus: int  # lines with more fields than the header
    prices: dict[str, float]
    in_stock: dict[str, bool]
    released: dict[str, int]  # Unix seconds
    genres: dict[str, tuple[str, ...]]
    unsold: list[str]  # items without interactions

    @property
    def options(self) -> list[str]:
        """Options of the commands that read all of it."""
        return [
            *("--data", str(self.interactions), "--items", str(self.items), "--skip-bad"),
            *("--attributes", "price,in_stock,release_date", "--items-key", "product number"),
        ]


@dataclass
class _Lines:
    """Lines of a file that is being written."""

    lines: list[str] = field(default_factory=list)

    def add(self, *fields: object) -> int:
        """Add a line of fields and return its number."""
        return self.add_raw(";".join(map(str, fields)))

    def add_raw(self, line: str) -> int:
        """Add a line as it is and return its number."""
        self.lines.append(line)
        return len(self.lines)

    def write(self, path: Path, encoding: str, newline: str) -> None:
        path.write_bytes((newline.join(self.lines) + newline).encode(encoding))


def write_messy_shop(
    folder: Path, *, seed: int = 0, encoding: str = "cp1252", newline: str = "\r\n", users: int = USERS
) -> MessyShop:
    """Write ``orders.csv`` and ``products.csv`` into an existing folder.

    The orders have semicolons, a header in capitals (``USER_ID``, ``ITEMID``, ``EVENT_TIME``, ``EVENT_TYPE``), item ids
    as floats (``106.0``), repeated lines, surplus fields, quoted fields, stray quotes, and empty ids. The products have
    their key in a column of another name, prices, booleans and dates as text, and genres separated by ``;`` in quotes.

    Args:
        folder: An existing folder.
        seed: Different shops; user u prefers items like u modulo 4, so there is something to learn.
        encoding: ``cp1252``, ``utf-8``, ``utf-8-sig`` (with a byte order mark) or ``utf-16``.
        newline: End of a line.
        users: Number of users, each with 8 interactions.
    """
    draw = random.Random(seed)
    numbers = [101 + row for row in range(ITEMS)]
    sold, unsold = numbers[:-UNSOLD], numbers[-UNSOLD:]

    orders = _Lines()
    orders.add("USER_ID", "ITEMID", "EVENT_TIME", "EVENT_TYPE", "COMMENT")
    meant: list[Interaction] = []
    bad: dict[int, str] = {}
    duplicates = surplus = 0
    for step in range(8):
        for user in range(users):
            liked = [number for number in sold if number % 4 == user % 4]
            item = draw.choice(liked if draw.random() < 0.8 else sold)
            row = (f"kunde-é{user:03}", str(item), START + 1000 * step + user, EVENTS[draw.random() < 0.4])
            fields = (row[0], f"{item}.0", row[2], row[3])
            meant.append(row)
            if user % 11 == 3:
                orders.add(*fields, '"schön; und ""gut"""')
            elif user % 13 == 5:
                orders.add(*fields, 'Bildschirm 27" groß')
            elif user % 17 == 7:
                surplus += 1
                orders.add(*fields, "gut", "zu viel", "viel")
            else:
                orders.add(*fields, "")
            if user % 10 == 4:
                duplicates += 1
                orders.add(*fields, "")
        for text in (
            f'kunde-é000;"{sold[step]}.0;{START};view;offen',
            f";{sold[step]}.0;{START};view;ohne Kunde",
            f"kunde-é001;{sold[step]}.0;gestern;view;ohne Zeit",
        ):
            bad[orders.add_raw(text)] = text
    orders.write(folder / "orders.csv", encoding, newline)
    return _with_products(folder, numbers, unsold, draw, encoding, newline, meant, bad, duplicates, surplus)


def _with_products(
    folder: Path,
    numbers: list[int],
    unsold: list[int],
    draw: random.Random,
    encoding: str,
    newline: str,
    meant: list[Interaction],
    bad: dict[int, str],
    duplicates: int,
    surplus: int,
) -> MessyShop:
    prices: dict[str, float] = {}
    in_stock: dict[str, bool] = {}
    released: dict[str, int] = {}
    genres: dict[str, tuple[str, ...]] = {}
    products = _Lines()
    products.add("Product Number", "Name", "Price", "In_Stock", "Release_Date", "Genres", "Internal")
    for number in numbers:
        item = str(number)
        day = 1 + draw.randrange(28)
        prices[item] = round(5 + draw.random() * 90, 2)
        in_stock[item] = draw.random() < 0.7
        released[item] = 1_704_067_200 + 86_400 * (day - 1)
        genres[item] = (GENRES[number % 4], GENRES[4]) if number % 3 else (GENRES[number % 4],)
        title = f'"Spiel ""{GENRES[number % 4]}"" Nr. {number}"'
        stock = "true" if in_stock[item] else "FALSE"
        products.add(
            number, title, f"{prices[item]:.2f}", stock, f"2024-01-{day:02}", f'"{";".join(genres[item])}"', "x"
        )
    products.write(folder / "products.csv", encoding, newline)

    return MessyShop(
        interactions=folder / "orders.csv",
        items=folder / "products.csv",
        meant=meant,
        bad_lines=bad,
        duplicates=duplicates,
        surplus=surplus,
        prices=prices,
        in_stock=in_stock,
        released=released,
        genres=genres,
        unsold=[str(number) for number in unsold],
    )
