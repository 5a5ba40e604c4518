"""Items that came after training: their features, their vectors, and the semantic IDs they are given."""
