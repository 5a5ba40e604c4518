"""Forms: what people fill in, the drafts that they edit, and what these make of it."""
