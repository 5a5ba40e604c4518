"""Graphs that these tests export are traced once per structure."""

from tests.support.shared_exports import shared_exports

__all__ = ["shared_exports"]
