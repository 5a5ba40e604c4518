"""Names are true of the items below a prefix, whatever the items say and in whatever script, or there is none."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from model_store.catalogue.code_names import NAME_LENGTH, CodeNames
from training.code_names.naming import MAX_TERMS, SEPARATOR, name_prefixes

PLANTED = {
    0: "OPI Nail Lacquer",
    1: "Σαμπουάν Μαλλιών",
    2: "护肤精华",
    3: "شامبو للشعر",
    4: "Crème Brûlée",
    5: "シャンプー",
    6: "Духи",
    7: "Straße 1995",
}
FILLERS = [
    "the",
    "and",
    "for",
    "with",
    "new",
    "red",
    "blue",
    "και",
    "για",
    "新款",
    "في",
    "من",
    "и",
    "для",
    "3",
    "100",
    "ml",
]


class Items(NamedTuple):
    """Items with their semantic IDs."""

    codes: npt.NDArray[np.int64]  # [N, 3]
    titles: list[str]
    categories: list[tuple[str, ...]]
    attributes: list[dict[str, object]]

    def names(self) -> CodeNames:
        return name_prefixes(*self)

    def take(self, rows: npt.NDArray[np.int64]) -> Items:
        return Items(self.codes[rows], *([column[row] for row in rows] for column in self[1:]))

    def texts(self, row: int) -> list[str]:
        """All that an item says."""
        values = self.attributes[row].values()
        parts = [part for value in values for part in (value if isinstance(value, list) else [value])]
        return [self.titles[row], *self.categories[row], *(part for part in parts if isinstance(part, str))]


def planted_items(seed: int, items: int = 320) -> Items:
    """Items whose first code stands for a phrase that most titles hold, with other words around it in any order."""
    random = np.random.default_rng(seed)
    first = np.arange(items) % len(PLANTED)
    codes = np.stack([first, random.integers(0, 4, items), np.arange(items)], axis=1)
    titles = []
    for code in first.tolist():
        words = random.choice(FILLERS, random.integers(0, 6)).tolist()
        if random.random() < 0.8:
            phrase = PLANTED[code]
            words.insert(int(random.integers(0, len(words) + 1)), phrase.upper() if random.random() < 0.2 else phrase)
        titles.append(" ".join(words))

    categories: list[tuple[str, ...]] = [
        (f"Kind {int(code)}",) if random.random() < 0.3 else () for code in codes[:, 1]
    ]
    return Items(codes, titles, categories, [{"price": 9.5, "tags": ["sale"] if n % 9 else []} for n in range(items)])


def plain(text: str) -> str:
    """Words in one case with a space between and around them; written anew here, so that the test knows itself."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    return f" {' '.join(words)} "


def says(texts: list[str], term: str) -> bool:
    wanted = plain(term)
    is_unspaced = re.search("[\u3040-\u30ff\u4e00-\u9fff]", term) is not None
    return any((wanted.strip() if is_unspaced else wanted) in plain(text) for text in texts)


def check_truth(items: Items, names: CodeNames) -> None:
    """Check every name against the items below its prefix and against the catalogue."""
    texts = [items.texts(row) for row in range(len(items.titles))]
    for prefix, name in zip(names.prefixes, names.names, strict=True):
        depth = int((prefix >= 0).sum())
        below = np.flatnonzero((items.codes[:, :depth] == prefix[:depth]).all(axis=1))
        terms = name.split(SEPARATOR)
        assert 1 <= len(terms) <= MAX_TERMS
        assert len(name) <= NAME_LENGTH
        words = [word for term in terms for word in plain(term).split()]
        assert len(words) == len(set(words)), name

        said = np.array([[says(each, term) for term in terms] for each in texts])
        together = said[below].all(axis=1)
        assert together.sum() >= 2, name
        assert together.mean() >= 0.5, name
        assert (said[below].mean(axis=0) >= 2 * said.mean(axis=0)).all(), name


@pytest.mark.parametrize("seed", range(5))
def test_names_are_true_in_any_script(seed: int) -> None:
    items = planted_items(seed)
    names = items.names()
    check_truth(items, names)
    for code, phrase in PLANTED.items():
        assert names.name([code]) == phrase
    twins = np.unique(items.codes[:, :2], axis=0)
    assert names.depths.max() == 2
    assert len(names) <= len(PLANTED) + len(twins)


def test_the_order_of_items_and_the_numbers_of_codes_make_no_difference() -> None:
    items = planted_items(7)
    names = items.names()
    again = items.take(np.random.default_rng(1).permutation(len(items.titles))).names()
    assert again.to_parquet() == names.to_parquet()
    renumbered = items._replace(codes=items.codes * 3 + 1).names()
    assert list(renumbered.names) == list(names.names)


def test_a_prefix_inherits_what_is_true_of_it_and_says_what_siblings_do_not() -> None:
    shades = ["Red", "Blue"]
    titles = [f"OPI Nail Lacquer {shades[n // 4]}" if n < 8 else f"Hair Shampoo {n}" for n in range(40)]
    codes = np.array([[n // 8, n // 4 % 2, n] for n in range(40)])
    names = name_prefixes(codes, titles, [()] * 40, [{}] * 40)
    assert names.name([0]) == "OPI Nail Lacquer"
    assert names.name([0, 0]) == "OPI Nail Lacquer Red"
    assert names.name([0, 1]) == "OPI Nail Lacquer Blue"


def test_a_category_names_a_group_that_it_covers_rather_than_words() -> None:
    codes = np.array([[n // 10, n % 10] for n in range(60)])
    titles = [f"{'Midnight' if n < 10 else 'Something'} {n}" for n in range(60)]
    categories = [("Science Fiction > Space, Far & Wide",) if n < 10 else ("Drama",) for n in range(60)]
    found = name_prefixes(codes, titles, categories, [{}] * 60).name([0])
    assert found == "Science Fiction > Space, Far & Wide · Midnight"
    brands = [{"brand": ["Estée Lauder"]} if n < 10 else {"brand": "Other", "year": 1995} for n in range(60)]
    assert name_prefixes(codes, [""] * 60, [()] * 60, brands).name([0]) == "Estée Lauder"


def test_the_most_frequent_spelling_is_shown() -> None:
    spellings = ["opi", "OPI", "OPI", "Opi"] * 3
    titles = [f"{spellings[n]} Lacquer’s" if n < 12 else "Other things" for n in range(60)]
    codes = np.array([[n // 12, n] for n in range(60)])
    assert name_prefixes(codes, titles, [()] * 60, [{}] * 60).name([0]) == "OPI Lacquer’s"


def test_common_words_name_nothing() -> None:
    """They are frequent in some small groups by chance, and everywhere besides."""
    random = np.random.default_rng(0)
    titles = [
        f"Brand{n % 40} {' '.join(random.choice(['for', 'and', 'with', 'The', 'Of'], 2))} Product{random.integers(900)}"
        for n in range(4000)
    ]
    codes = np.stack([np.arange(4000) % 40, random.integers(0, 25, 4000), np.arange(4000)], axis=1)
    names = name_prefixes(codes, titles, [()] * 4000, [{}] * 4000)
    terms = {term for name in names.names for term in name.split(SEPARATOR)}
    assert {f"Brand{code}" for code in range(40)} <= {names.name([code]) for code in range(40)}
    assert not terms & {"for", "and", "with", "The", "Of"}
    assert not any(re.search("(^| )(for|and|with|The|Of)$", term) for term in terms)


HOSTILE = {
    "empty": "",
    "spaces": " \t\n ",
    "10,000 characters": "x" * 10_000,
    "10,000 characters of words": "long word " * 1_000,
    "one repeated word": "Nail " * 300,
    "control characters": "\x00\x07\u2028\x1b[31m",
    "control characters between words": "Bell\x07Rings\x00Twice",
    "punctuation": "--- (!!!) ***",
    "marks only": "\u0301\u0301",
    "a lone joiner": "\u200d",
    "direction override": "\u202eevil\u202c",
    "emoji": "🧴🧴 💅",
    "full width": "ＮＡＩＬ　ｐｏｌｉｓｈ",
    "Hindi": "हिन्दी किताब",
    "Thai": "น้ำหอมผู้หญิง",
    "vocalised Arabic": "مُحَمَّد كِتَاب",
    "underscores": "_a_ __",
}


@pytest.mark.parametrize("title", HOSTILE.values(), ids=HOSTILE.keys())
def test_titles_of_any_kind_give_true_names_or_none(title: str) -> None:
    codes = np.array([[n // 10, n % 3, n] for n in range(60)])
    titles = [title if n < 10 else f"Plain {n}" for n in range(60)]
    names = name_prefixes(codes, titles, [()] * 60, [{}] * 60)
    again = CodeNames.from_parquet(names.to_parquet())  # refuses control characters and long names
    found = again.name([0])
    assert found == names.name([0])
    if found is not None:
        assert len(found) <= NAME_LENGTH
        words = found.casefold().split()
        assert len(words) == len(set(words))
        normalised = " ".join(re.sub(r"[\x00-\x1f\u2028]", " ", unicodedata.normalize("NFKC", title)).split())
        assert all(term in normalised for term in found.split(SEPARATOR))
    assert {name for name in names.names if "\n" in name} == set()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("empty", None),
        ("10,000 characters", None),
        ("one repeated word", "Nail"),
        ("control characters between words", "Bell Rings Twice"),
        ("punctuation", None),
        ("full width", "NAIL polish"),
        ("Hindi", "हिन्दी किताब"),
        ("vocalised Arabic", "مُحَمَّد كِتَاب"),
    ],
)
def test_what_hostile_titles_give(kind: str, expected: str | None) -> None:
    codes = np.array([[n // 10, n] for n in range(60)])
    titles = [HOSTILE[kind] if n < 10 else f"Plain {n}" for n in range(60)]
    assert name_prefixes(codes, titles, [()] * 60, [{}] * 60).name([0]) == expected


def test_without_texts_there_are_no_names() -> None:
    items = planted_items(0)
    silent = [{"price": 9.5, "year": 1995, "sku": "0012-77", "flag": True}] * 320
    assert len(name_prefixes(items.codes, [""] * 320, [()] * 320, silent)) == 0


def test_single_items_and_single_codes_have_no_names() -> None:
    titles = ["OPI Nail Lacquer"] * 4 + ["Shampoo"] * 4
    one_code = np.arange(8)[:, None]
    assert len(name_prefixes(one_code, titles, [()] * 8, [{}] * 8)) == 0
    apart = np.stack([np.arange(8), np.zeros(8, dtype=np.int64)], axis=1)
    assert len(name_prefixes(apart, titles, [()] * 8, [{}] * 8)) == 0
    assert len(name_prefixes(np.array([[0, 0]]), ["Shampoo"], [()], [{}])) == 0


def test_names_take_few_bytes() -> None:
    """A table of a catalogue in which every prefix has a name stays below 64 bytes a prefix."""
    items = 20_000
    titles = [f"Brand{n // 200} Series{n // 4} Piece{n}" for n in range(items)]
    codes = np.array([[n // 200, n // 4 % 50, n % 4] for n in range(items)])
    names = name_prefixes(codes, titles, [()] * items, [{}] * items)
    assert names.name([3]) == "Brand3"
    assert len(names) == 100 + 5_000
    assert len(names.to_parquet()) < 64 * len(names)
