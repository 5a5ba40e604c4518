"""Histories that come from elsewhere: of the training data's users, or from a file."""
