"""The online half: an HTTP service that answers with recommendations of the promoted model."""
