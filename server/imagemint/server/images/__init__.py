"""Images of a request: which ones, how they are encoded, and the memory that they hold."""
