"""Rules that change an answer: filters, boosts, pins, limits by prefix, steering, and what each cost."""
