"""The neural network in torch: layers, item tokenizer, recommender and the beam search over them."""
