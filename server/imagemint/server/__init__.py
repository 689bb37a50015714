"""The server: a model repository over gRPC, with batching, metrics and a clean drain."""
