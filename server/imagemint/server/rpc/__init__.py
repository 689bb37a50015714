"""The gRPC side of the server. No other package of the server imports gRPC."""
