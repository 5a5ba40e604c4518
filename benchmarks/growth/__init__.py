"""Parts of the growth benchmark: its data, a stage in a process of its own, and the arithmetic of growth."""
