"""Generated stubs of imagemint.v1: messages in *_pb2, services in *_pb2_grpc."""
