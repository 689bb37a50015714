"""The HTTP side of the server: the RPCs as JSON, images by URL, health, and the page."""
