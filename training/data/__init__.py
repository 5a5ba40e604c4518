"""From interactions in many formats to one prepared :class:`~training.data.dataset.Dataset`."""
