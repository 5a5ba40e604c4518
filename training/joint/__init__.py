"""Joint training of tokenizer and recommender (ETEGRec section 3.5)."""
