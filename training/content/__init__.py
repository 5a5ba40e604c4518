"""The content model: it predicts an item's embedding from its title, categories and attributes."""
