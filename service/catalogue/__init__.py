"""Changes of the catalogue: accepting them from clients and keeping this replica up to date."""
