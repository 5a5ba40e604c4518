"""Ranking metrics, and full ranking by the search that serves."""
