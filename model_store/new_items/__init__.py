"""Items that came after training: content features, their vector, and the semantic ID they are given."""
