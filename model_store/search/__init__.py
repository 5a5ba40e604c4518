"""The definition of the search: its inputs and outputs, exclusions, and the fused ranking."""
