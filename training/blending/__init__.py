"""The blend of learned cosines, content and neighbours in dense scores, fitted together on validation users."""
