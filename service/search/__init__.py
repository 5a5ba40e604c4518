"""The search of one request: its terms in the catalogue, the search itself, and questions about its answer."""
