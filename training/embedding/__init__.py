"""Item embeddings: SASRec, which learns them."""
