"""Views: what pages show of one answer of the service, such as an answer, a report or the models."""
