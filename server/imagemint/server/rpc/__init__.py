"""The one package of the server that knows gRPC."""
