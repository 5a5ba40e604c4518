"""Item embeddings: SASRec, which learns them, and counts of the items that follow each item."""
