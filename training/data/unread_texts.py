"""Texts of an items file that are not read: items that say nothing, and what is cut off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from model_store.new_items.features import MAX_TEXT_LENGTH, says_something
from model_store.source_files.intake import Intake
from training.data.dataset import ItemInfo

BoolArray = npt.NDArray[np.bool_]


def note_unread_texts(file: str, items: Iterable[ItemInfo], intake: Intake) -> BoolArray:
    """Note how many items say nothing that can be read, and how many texts are too long to be read whole.

    Returns:
        Mask of the items that say something, in their order.
    """
    says = []
    long_texts = 0
    for item in items:
        says.append(says_something(item.title, item.categories, item.attributes))
        long_texts += sum(len(text) > MAX_TEXT_LENGTH for text in _texts(item))

    is_told = np.array(says, dtype=np.bool_)
    if silent := int((~is_told).sum()):
        words = "says nothing" if silent == 1 else "say nothing"
        intake.note(f"{file}: {silent:,} of {len(is_told):,} items {words} that can be read")
    if long_texts:
        words = "1 text is" if long_texts == 1 else f"{long_texts:,} texts are"
        intake.note(f"{file}: {words} longer than {MAX_TEXT_LENGTH:,} characters, of which the rest is not read")
    return is_told


def _texts(item: ItemInfo) -> Iterator[str]:
    """Yield all texts of an item, also those in lists."""
    yield item.title
    yield from item.categories
    for value in item.attributes.values():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, str):
                yield part
