"""Advice: what the service's figures mean, and what to do about them."""
