"""Reading of interactions in many formats into one prepared :class:`~training.data.dataset.Dataset`."""
