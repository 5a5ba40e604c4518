"""Files of interactions and items as shops have them: names of columns, separated text, and how ids are written."""
