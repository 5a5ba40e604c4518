"""Answers beside the search: popular and trending items, similar items, explanations, cached answers."""
