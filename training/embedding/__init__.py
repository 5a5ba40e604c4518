"""The dense half: SASRec, which learns item embeddings, and the counts of which items follow which."""
