"""Semantic IDs and the trie over them."""
