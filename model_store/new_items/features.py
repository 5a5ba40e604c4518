"""From what is known of an item to numbers that a content model reads: the same code in training and service.

An item becomes a sparse bag of *features*: words of its title, its categories, and its attributes, text or key and
value. Each feature is a number below :data:`SPACE`, a hash of its name that is the same everywhere and for ever, so
that no vocabulary has to travel; which of them a model knows is the model's business.

Title, categories and each attribute are *groups*. The weights of a group are of unit length together, so that a long
title says no more than a short one. Work and features of an item are bounded whatever it holds.
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

CONTENT, TOKENIZER = "content.onnx", "tokenizer.onnx"
"""The graphs that make an item's codes, by their names in a bundle."""

CONTENT_INPUTS, CONTENT_OUTPUTS = ("features", "weights"), ("embeddings",)
TOKENIZER_OUTPUTS = ("codes", "distances", "latents")
"""What these call what goes in and out; the tokenizer takes ``embeddings``."""

SPACE = 1 << 18
"""Features that there can be. Models are trained for it: another number or another hash is another bundle format."""

MOST_FEATURES = 256
"""Features of one item; those of the title come first, then categories, then attributes by name."""

MOST_GROUPS = 64
"""Attributes of one item that are read, nested and listed values counted one by one."""

TEXT_LIMIT = 2_000
"""Characters of one text that are read."""

YEARS = range(1000, 2200)
"""Whole numbers that are most likely years: what matters of them is the decade, not the order of magnitude."""

_WORD = re.compile(r"\w+")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
"""Scripts that are written without spaces between words: Thai, Lao, kana, Chinese characters."""
_NUMBER = re.compile(r"[+-]?\d{1,15}(\.\d{1,15})?")
_LARGEST = 1e15

Attributes = Mapping[str, Any]
Weighted = tuple[str, float]


class Features(NamedTuple):
    """The features of one item, ascending; none where nothing is known of it."""

    ids: npt.NDArray[np.int64]  # [F], each once, below SPACE
    weights: npt.NDArray[np.float32]  # [F], positive


def content_features(title: str, categories: Sequence[str], attributes: Attributes | str) -> Features:
    """What a content model reads of an item.

    Args:
        title: "" where unknown.
        categories: Names.
        attributes: Text, or values by key: text, numbers, truth values, lists of these, or one more level of keys.
            Text that is a number counts as that number; values of other kinds say nothing.
    """
    weight: dict[int, float] = {}
    for group in _groups(title, categories, attributes):
        length = math.sqrt(sum(value * value for _, value in group))
        for name, value in group:
            feature = feature_id(name)
            if feature in weight or len(weight) < MOST_FEATURES:
                weight[feature] = weight.get(feature, 0.0) + value / length
    ids = np.array(sorted(weight), dtype=np.int64)
    return Features(ids, np.array([weight[each] for each in ids.tolist()], dtype=np.float32))


def feature_id(name: str) -> int:
    """The number of a feature: CRC-32 of its name, to the bits that :data:`SPACE` has."""
    return zlib.crc32(name.encode("utf-8", "surrogatepass")) % SPACE


def words(text: str) -> list[str]:
    """Distinct words in order, case folded; where a script has no spaces between words, pairs of characters."""
    folded = unicodedata.normalize("NFKC", text[:TEXT_LIMIT]).casefold()
    found: dict[str, None] = {}
    for word in _WORD.findall(folded):
        if _UNSPACED.search(word) and len(word) > 1:
            found.update(dict.fromkeys(one + other for one, other in pairwise(word)))
        else:
            found[word] = None
    return list(found)


def _groups(title: str, categories: Sequence[str], attributes: Attributes | str) -> Iterator[list[Weighted]]:
    """Groups of feature names, none of them empty. The first letter of a name says what kind of feature it is."""
    yield from _filled([(f"t:{word}", 1.0) for word in words(title)])
    names = (" ".join(words(name)) for name in islice(categories, MOST_FEATURES))
    yield from _filled([(f"c:{name}", 1.0) for name in dict.fromkeys(names) if name])
    if isinstance(attributes, str):
        yield from _filled([(f"w:{word}", 1.0) for word in words(attributes)])
        return
    for key, value in islice(_flat(attributes), MOST_GROUPS):
        yield from _filled(_attribute(" ".join(words(key)), value))


def _filled(group: list[Weighted]) -> Iterable[list[Weighted]]:
    return [group] if group else []


def _flat(attributes: Attributes) -> Iterator[tuple[str, Any]]:
    """Single values by key, in order of keys: those of lists one by one, those one level down as ``key.name``."""
    for key, value in sorted(attributes.items()):
        if isinstance(value, Mapping):
            inner = sorted((f"{key}.{name}", each) for name, each in value.items() if not isinstance(each, Mapping))
        else:
            inner = [(key, value)]
        for name, each in inner:
            if isinstance(each, list | tuple):
                yield from ((name, part) for part in each[:MOST_GROUPS])
            else:
                yield name, each


def _attribute(key: str, value: Any) -> list[Weighted]:
    if isinstance(value, bool):
        return [(f"a:{key}={value}", 1.0)]
    if isinstance(value, int | float):
        return _number(key, value)
    if not isinstance(value, str):
        return []
    if _NUMBER.fullmatch(value.strip()):
        return _number(key, float(value))
    found = words(value)
    # The whole value too, where it is short enough to be a name that other items share.
    whole = [(f"a:{key}={' '.join(found)}", 1.0)] if 0 < len(found) <= 8 else []
    return whole + [(f"w:{word}", 1.0) for word in found]


def _number(key: str, value: float) -> list[Weighted]:
    """The number itself, and its two neighbours on a coarse scale by nearness, so that close numbers share features.

    The scale has a step for ten years, and for other numbers two steps for each doubling.
    """
    if not -_LARGEST < value < _LARGEST:  # neither are NaN and infinities
        return []
    exact = float(value)
    is_year = exact.is_integer() and int(exact) in YEARS
    place = exact / 10 if is_year else math.copysign(2 * math.log2(1 + abs(exact)), exact)
    low = math.floor(place)
    near = [(f"n:{key}~{'y' if is_year else ''}{low + step}", abs(1 - step - (place - low))) for step in (0, 1)]
    return [(f"a:{key}={exact!r}", 1.0), *((name, weight) for name, weight in near if weight > 0)]
