"""Model versions in memory: loading one, proving it by its goldens, swapping it in."""
