"""From a trained generator to a verified bundle.

Nothing is imported here, so that listing the commands does not wait for NumPy or PyTorch: see
`imagemint.exporter.export` for the work and `imagemint.exporter.errors` for what can go wrong.
"""
