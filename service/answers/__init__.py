"""Answers beside the search: popular and trending items, similar items, explanations, kept answers."""
