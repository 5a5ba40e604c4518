"""The item encoder under the service's roof. It lives in the kernel, because training measures new items with it."""

from __future__ import annotations

from model_store.item_encoder import Encoded, ItemEncoder

__all__ = ["Encoded", "ItemEncoder"]
