"""Simulated shop: people with hidden tastes, days of visits through the real service, and what the loop finds out."""
