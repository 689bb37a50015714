"""Image requests, the encoding of their images, and the memory of their answers."""
