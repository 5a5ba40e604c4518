"""Semantic IDs of items and the trie over them."""
