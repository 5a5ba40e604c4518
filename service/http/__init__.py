"""The HTTP interface: endpoints, hostile input, problem documents, the OpenAPI description."""
