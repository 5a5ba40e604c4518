"""Names of code prefixes, chosen from the words that the items below them share."""
