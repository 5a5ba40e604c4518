"""Texts of items and their words: which are phrases, where phrases end, which words can stand alone."""

from __future__ import annotations

import polars as pl
import pytest

from training.code_names.words import Words, item_texts, split_texts


def split(*titles: str) -> Words:
    return split_texts(pl.DataFrame({"text": titles}).with_columns(is_word=pl.lit(False)))


def phrases(words: Words) -> list[str]:
    """The longest phrases, in order, with a space before each joined word."""
    parts: list[list[str]] = []
    for spelling, joins in zip(words.spelling.tolist(), words.joins.tolist(), strict=True):
        if not joins:
            parts.append([])
        parts[-1].append(words.spellings[spelling])
    return [" ".join(part) for part in parts]


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("OPI Nail Lacquer, Red (8 oz)", ["OPI Nail Lacquer", "Red", "8 oz"]),
        ("Women's T-Shirt & Co: A/C", ["Women's T-Shirt & Co", "A", "C"]),
        ("护肤 精华 OPI 红", ["护 肤", "精 华", "OPI", "红"]),
        ("हिन्दी किताब", ["हिन्दी किताब"]),
        ("مُحَمَّد كِتَاب", ["مُحَمَّد كِتَاب"]),
        ("x" * 65 + " word", ["word"]),
        ("_ ... \u200d", []),
        ("", []),
    ],
)
def test_punctuation_ends_phrases_and_marks_do_not(title: str, expected: list[str]) -> None:
    assert phrases(split(title)) == expected


def test_phrases_do_not_run_from_one_text_into_the_next() -> None:
    words = split("Nail", "", "Polish Red")
    assert words.text.tolist() == [0, 2, 2]
    assert words.joins.tolist() == [False, False, True]


def test_spellings_in_another_case_are_one_word() -> None:
    words = split("STRASSE straße Straße Lacquer’s lacquer's")
    assert words.word.tolist() == [0, 0, 0, 1, 1]
    assert [words.spellings[each] for each in words.spelling] == [
        "STRASSE",
        "straße",
        "Straße",
        "Lacquer’s",
        "lacquer's",
    ]


def test_what_a_word_alone_may_be() -> None:
    words = split("Nail 1995 12 3D C & 护")
    telling = {words.spellings[s]: bool(words.is_telling[w]) for s, w in zip(words.spelling, words.word, strict=True)}
    assert telling == {"Nail": True, "1995": True, "12": False, "3D": True, "C": False, "&": False, "护": False}
    border = {words.spellings[s]: bool(words.is_border[w]) for s, w in zip(words.spelling, words.word, strict=True)}
    assert [word for word, may in border.items() if not may] == ["&"]


def test_small_words_are_told_where_others_have_capitals() -> None:
    small = split("Lord of the Rings", "The Sound of Music", "Lady and the Tramp")
    found = {
        small.spellings[s].casefold() for s, w in zip(small.spelling, small.word, strict=True) if small.is_small[w]
    }
    assert found == {"of", "the", "and"}
    assert not split("lord of the rings", "the sound of music").is_small.any()
    assert not split("المحيط في الليل", "指甲油").is_small.any()


def test_texts_are_titles_categories_and_texts_of_attributes() -> None:
    attributes: list[dict[str, object]] = [
        {"brand": "OPI", "year": 1995, "tags": ["new", 7, "new"], "sku": "12-34", "size": "0.5"},
        {"about": "A long, long story. " * 20},
    ]
    texts = item_texts([" Red \x07 Nail ", ""], [("Nail > Care", "Nail"), ()], attributes)
    rows = {(item, text, is_value, is_word) for item, text, is_value, is_word in texts.iter_rows()}
    assert {row for row in rows if row[0] == 0} == {
        (0, " Red Nail ", False, False),
        (0, "Nail > Care", False, False),
        (0, "Nail > Care", True, True),
        (0, "Nail", True, False),
        (0, "OPI", True, False),
        (0, "new", True, False),
    }
    [story] = (row for row in rows if row[0] == 1)
    assert story[2:] == (False, False)
