"""Words of all items, as numbers: what their titles, categories and text attributes say, in any script.

A text is split as for the content model (:mod:`model_store.new_items.features`), but for display: hyphens, apostrophes
and the like inside a word do not end it, marks belong to their letters, and scripts without spaces give characters.
Polars splits all texts at once; Python sees distinct words only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from model_store.catalogue.columns import PackedCategories
from model_store.catalogue.packed import PackedStrings
from model_store.new_items.features import MAX_TEXT_LENGTH

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MAX_WORDS = 5
"""Most words of a phrase."""

MAX_CHARACTERS = 8
"""Most characters of a phrase in a script without spaces."""

WORD_LENGTH = 64
"""Longest word, and longest value that counts as one, in characters; what is longer is no name."""

_SCRIPTS = r"\u{0e00}-\u{0eff}\u{3040}-\u{30ff}\u{3400}-\u{4dbf}\u{4e00}-\u{9fff}"
"""Thai, Lao, kana and Chinese characters, which are written without spaces between words."""

_CHARACTER = rf"[\w&&[{_SCRIPTS}]]\p{{M}}*"
_LETTER = rf"[\w--[{_SCRIPTS}]]"
_WORD = rf"{_LETTER}+(?:['’.&-]{_LETTER}+)*|&"
_TOKEN = rf"{_CHARACTER}|{_WORD}|[^\w\s&]+"
"""A character, a word, an "&" between words, or punctuation, which ends a phrase."""

_PHRASE = rf"^(?:(?:{_WORD})(?:\s+(?:{_WORD})){{0,{MAX_WORDS - 1}}}|(?:{_CHARACTER}){{1,{MAX_CHARACTERS}}})$"
_NUMBER = r"^[\d\s.,+-]*$"
_UNSEEN = r"[\p{Cc}\p{Zl}\p{Zp}\s]+"


@dataclass(frozen=True)
class Words:
    """The words of all texts in order, P places, and the V distinct words and S spellings at these places."""

    text: Int64Array  # [P], row of the text, ascending
    word: Int64Array  # [P], number of the word; spellings that differ in case only are one word
    spelling: Int64Array  # [P]
    joins: BoolArray  # [P], whether the word continues a phrase: it follows another one, without punctuation between
    spellings: Sequence[str]  # [S]
    is_character: BoolArray  # [V], of a script without spaces
    is_telling: BoolArray  # [V], whether the word may stand alone: letters, or a number as long as a year
    is_border: BoolArray  # [V], whether a phrase may begin or end with it; not so "&"
    is_small: BoolArray  # [V], mostly begins with a small letter, where most places have a capital


def item_texts(
    titles: Sequence[str], categories: Sequence[tuple[str, ...]], attributes: Sequence[dict[str, Any]]
) -> pl.DataFrame:
    """Return everything that items say, one row for each text.

    A value is a category, or text of an attribute that is not a number. Where it is no plain phrase, for its length or
    punctuation, it comes twice: split like a title, and as one word.

    Returns:
        ``item``, ``text``, ``is_value`` (the whole text is a value) and ``is_word`` (it counts as one word).
    """
    by_item = pl.Series(range(len(titles)), dtype=pl.Int64)
    schema = pl.Schema({"item": pl.Int64, "text": pl.String})
    of_titles = pl.DataFrame({"item": by_item, "text": _series(PackedStrings.of(titles).to_arrow())})
    names = pl.DataFrame({"item": by_item, "text": _series(PackedCategories.of(categories).to_arrow())}).explode("text")
    of_attributes = pl.DataFrame(list(_attribute_texts(attributes)), schema=schema, orient="row")

    text = pl.col("text").str.slice(0, MAX_TEXT_LENGTH).str.normalize("NFKC").str.replace_all(_UNSEEN, " ")
    of_attributes = of_attributes.filter(~pl.col("text").str.contains(_NUMBER))
    values = pl.concat([names.cast(schema), of_attributes]).with_columns(text.str.strip_chars())
    values = values.unique(maintain_order=True)

    is_phrase = pl.col("text").str.contains(_PHRASE)
    one_word = values.filter(~is_phrase & (pl.col("text").str.len_chars() <= WORD_LENGTH))
    parts = [
        of_titles.with_columns(text, is_value=pl.lit(False), is_word=pl.lit(False)),
        values.with_columns(is_value=is_phrase, is_word=pl.lit(False)),
        one_word.with_columns(is_value=pl.lit(True), is_word=pl.lit(True)),
    ]
    return pl.concat(parts).filter(pl.col("text").is_not_null() & (pl.col("text") != ""))


def split_texts(texts: pl.DataFrame) -> Words:
    """Split texts as :func:`item_texts` returns them into words."""
    # A space between two characters separates them; other words it joins to a phrase.
    split = pl.col("text").str.replace_all(rf"({_CHARACTER})\s+", "${1}|").str.extract_all(_TOKEN)
    token = pl.when("is_word").then(pl.concat_list("text")).otherwise(split)
    tokens = texts.select(row=pl.int_range(pl.len()), token=token).explode("token").drop_nulls()

    distinct = tokens["token"].unique(maintain_order=True)
    numbered = tokens["token"].replace_strict(distinct, pl.int_range(len(distinct), eager=True))
    spellings = distinct.to_list()
    folded = [each.casefold().replace("’", "'") for each in spellings]
    word_of = {each: number for number, each in enumerate(dict.fromkeys(folded))}

    text = tokens["row"].to_numpy()
    spelling = numbered.cast(pl.Int64).to_numpy()
    word = np.array([word_of[each] for each in folded], dtype=np.int64)[spelling]
    is_word = np.array([_is_word(each) for each in spellings], dtype=np.bool_)[spelling]
    is_character = pl.Series(list(word_of), dtype=pl.String).str.contains(rf"^{_CHARACTER}$").to_numpy()

    joins = np.zeros(len(word), dtype=np.bool_)
    joins[1:] = (text[1:] == text[:-1]) & is_word[:-1] & (is_character[word[1:]] == is_character[word[:-1]])
    case = np.array([each[0].islower() - each[0].isupper() for each in spellings], dtype=np.int64)[spelling]
    is_small = (np.bincount(word, case, len(word_of)) > 0) & (case.sum() < 0)
    return Words(
        text=text[is_word],
        word=word[is_word],
        spelling=spelling[is_word],
        joins=joins[is_word],
        spellings=spellings,
        is_character=is_character,
        is_telling=np.array([_is_telling(each) for each in word_of], dtype=np.bool_) & ~is_character,
        is_border=np.array([any(map(str.isalnum, each)) for each in word_of], dtype=np.bool_),
        is_small=is_small,
    )


def _series(column: Any) -> pl.Series:
    """Return an Arrow array as a Polars series."""
    return pl.Series(pl.from_arrow(column))


def _attribute_texts(attributes: Sequence[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """Yield each text among the attributes with its item, also those in lists."""
    for item, values in enumerate(attributes):
        for value in values.values():
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, str):
                    yield item, part


def _is_word(text: str) -> bool:
    """Tell words, characters and "&" from punctuation and from what is too long to be a word."""
    return text == "&" or (len(text) <= WORD_LENGTH and any(map(str.isalnum, text)))


def _is_telling(word: str) -> bool:
    """Tell whether a word alone says something: letters, or a number as long as a year."""
    return len(word) >= (2 if any(map(str.isalpha, word)) else 4)
