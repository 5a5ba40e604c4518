"""The content model: from what an item says to its embedding."""
