"""Types of single fields that many requests have."""

from typing import Any, Literal

Id = str | int
"""An id of a user, item or event. An integer counts as its decimal text."""

Attributes = dict[str, Any] | str
"""Attributes of an item: values by key, or text."""

EventType = Literal["view", "click", "cart", "purchase", "rating"]
"""Types that speak for an item."""
