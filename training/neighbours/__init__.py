"""The neighbourhood of items: which items are close to each other in the sequences of users."""
