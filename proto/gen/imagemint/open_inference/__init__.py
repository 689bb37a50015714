"""Generated stubs of imagemint.open_inference: messages in *_pb2, services in *_pb2_grpc."""
