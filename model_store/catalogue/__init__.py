"""The items of a model version as packed columns, and changes to them."""
