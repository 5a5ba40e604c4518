"""Experiments: who gets which variant, and what the difference between variants is, with its uncertainty."""
