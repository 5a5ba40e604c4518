"""What a run measured, for people: plots that answer questions, and one page that holds all of them."""
