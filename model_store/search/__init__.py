"""The search by definition: its inputs and outputs, the rules, and the fused ranking."""
