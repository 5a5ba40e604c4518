"""From trained networks to the files of a bundle."""
