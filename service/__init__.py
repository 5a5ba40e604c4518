"""The online half: HTTP in, recommendations out, from the model that is live."""
