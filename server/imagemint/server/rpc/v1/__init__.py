"""The services of `imagemint.v1`."""
