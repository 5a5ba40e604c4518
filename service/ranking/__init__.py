"""Rules that change the order of an answer: boosts, pins, limits by prefix, steering, and what each cost."""
