"""Benchmarks: commands that print one line of JSON, with the peer measured in the same run. Never tests."""
