"""Features of an item: hashed words, categories and attribute values, the same in training and service.

An item becomes a sparse bag of *features*: words of its title, its categories, and its attributes, text or key and
value. A feature is identified by a hash of its name below :data:`HASH_BUCKETS`. The hash never changes, so no
vocabulary has to travel with a model; each model learns which features it knows.

Title, categories and each attribute are *groups*. The weights of a group together have unit length, so that a long
title says no more than a short one. Work and number of features per item are bounded, whatever the item holds.
"""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

HASH_BUCKETS = 1 << 18
"""Number of distinct features. Models are trained for it: another number or another hash is another bundle format."""

MAX_FEATURES = 256
"""Most features of one item; those of the title come first, then categories, then attributes by name."""

MAX_GROUPS = 64
"""Most attributes of one item that are read; nested and listed values count one by one."""

MAX_TEXT_LENGTH = 2_000
"""Most characters of one text that are read."""

YEARS = range(1000, 2200)
"""Whole numbers that are most likely years: what matters of them is the decade, not the order of magnitude."""

_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"[+-]?\d{1,15}(\.\d{1,15})?")
_MAX_NUMBER = 1e15

_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
"""Scripts that are written without spaces between words: Thai, Lao, kana, Chinese characters."""

_MAX_NAME_WORDS = 8
"""Most words of an attribute value that also counts as a whole: a name that other items may share."""

Attributes = Mapping[str, Any]
WeightedName = tuple[str, float]


class Features(NamedTuple):
    """The features of one item, in ascending order; empty if nothing is known of the item."""

    ids: npt.NDArray[np.int64]  # [F], each once, below HASH_BUCKETS
    weights: npt.NDArray[np.float32]  # [F], positive


def extract_features(title: str, categories: Sequence[str], attributes: Attributes | str) -> Features:
    """Extract the features that a content model reads of an item.

    Args:
        title: "" where unknown.
        categories: Names.
        attributes: Text, or values by key: text, numbers, truth values, lists of these, or one more level of keys.
            Text that is a number counts as that number; values of other kinds are ignored.
    """
    weight_of: dict[int, float] = {}
    for group in _groups(title, categories, attributes):
        length = math.sqrt(sum(value * value for _, value in group))
        for name, value in group:
            feature = hash_feature(name)
            if feature in weight_of or len(weight_of) < MAX_FEATURES:
                weight_of[feature] = weight_of.get(feature, 0.0) + value / length

    ids = np.array(sorted(weight_of), dtype=np.int64)
    weights = np.array([weight_of[feature] for feature in ids.tolist()], dtype=np.float32)
    return Features(ids, weights)


def says_something(title: str, categories: Sequence[str], attributes: Attributes | str) -> bool:
    """Return whether an item has any feature; mostly a look at the beginning of its title tells."""
    if _has_word(title) or any(map(_has_word, islice(categories, MAX_FEATURES))):
        return True
    return next(_groups("", (), attributes), None) is not None


def hash_feature(name: str) -> int:
    """Return the id of a feature: the CRC-32 of its name, cut to the bits of :data:`HASH_BUCKETS`."""
    return zlib.crc32(name.encode("utf-8", "surrogatepass")) % HASH_BUCKETS


def split_words(text: str) -> list[str]:
    """Return the distinct words in order, case folded; pairs of characters where a script has no spaces."""
    found: dict[str, None] = {}
    for word in _WORD.findall(_fold(text)):
        if _UNSPACED.search(word) and len(word) > 1:
            found.update(dict.fromkeys(one + other for one, other in pairwise(word)))
        else:
            found[word] = None
    return list(found)


def _has_word(text: str) -> bool:
    if text.isascii():
        return bool(_WORD.search(text, 0, MAX_TEXT_LENGTH))
    return bool(_WORD.search(_fold(text)))


def _fold(text: str) -> str:
    """Return what is read of a text, in one form of each character, without case."""
    return unicodedata.normalize("NFKC", text[:MAX_TEXT_LENGTH]).casefold()


def _groups(title: str, categories: Sequence[str], attributes: Attributes | str) -> Iterator[list[WeightedName]]:
    """Yield groups of feature names, none of them empty. The first letter of a name is the kind of feature."""
    yield from _unless_empty([(f"t:{word}", 1.0) for word in split_words(title)])

    names = (" ".join(split_words(name)) for name in islice(categories, MAX_FEATURES))
    yield from _unless_empty([(f"c:{name}", 1.0) for name in dict.fromkeys(names) if name])

    if isinstance(attributes, str):
        yield from _unless_empty([(f"w:{word}", 1.0) for word in split_words(attributes)])
        return
    for key, value in islice(_flatten(attributes), MAX_GROUPS):
        yield from _unless_empty(_attribute_names(" ".join(split_words(key)), value))


def _unless_empty(group: list[WeightedName]) -> Iterable[list[WeightedName]]:
    return [group] if group else []


def _flatten(attributes: Attributes) -> Iterator[tuple[str, Any]]:
    """Yield single values by key, in order of keys: list values one by one, values one level down as ``key.name``."""
    for key, value in sorted(attributes.items()):
        if isinstance(value, Mapping):
            inner = sorted((f"{key}.{name}", each) for name, each in value.items() if not isinstance(each, Mapping))
        else:
            inner = [(key, value)]

        for name, each in inner:
            if isinstance(each, list | tuple):
                yield from ((name, part) for part in each[:MAX_GROUPS])
            else:
                yield name, each


def _attribute_names(key: str, value: Any) -> list[WeightedName]:
    """Return the feature names of one attribute value; none for kinds that are ignored."""
    if isinstance(value, bool):
        return [(f"a:{key}={value}", 1.0)]
    if isinstance(value, int | float):
        return _number_names(key, value)
    if not isinstance(value, str):
        return []
    if _NUMBER.fullmatch(value.strip()):
        return _number_names(key, float(value))

    words = split_words(value)
    names = [(f"w:{word}", 1.0) for word in words]
    if 0 < len(words) <= _MAX_NAME_WORDS:
        names.insert(0, (f"a:{key}={' '.join(words)}", 1.0))
    return names


def _number_names(key: str, value: float) -> list[WeightedName]:
    """Return a number itself and its two neighbours on a coarse scale, so that close numbers share features.

    The neighbours are weighted by nearness. The scale has one step for ten years, and for other numbers two steps for
    each doubling.
    """
    if not -_MAX_NUMBER < value < _MAX_NUMBER:  # NaN and infinities are out of range, too
        return []

    exact = float(value)
    is_year = exact.is_integer() and int(exact) in YEARS
    place = exact / 10 if is_year else math.copysign(2 * math.log2(1 + abs(exact)), exact)
    low = math.floor(place)
    kind = "y" if is_year else ""
    neighbours = [(f"n:{key}~{kind}{low + step}", abs(1 - step - (place - low))) for step in (0, 1)]
    return [(f"a:{key}={exact!r}", 1.0), *((name, weight) for name, weight in neighbours if weight > 0)]
