"""Batch runs: recommendations for all users, users for an item, similar items, written as Parquet."""
