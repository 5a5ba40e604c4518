"""Experiments: which variant each user or session gets, and what is deleted when one is over."""
