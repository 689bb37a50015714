"""Exports a trained generator as a verified bundle.

This module imports nothing, so that listing the commands does not wait for NumPy or PyTorch. The
work is in `imagemint.exporter.export`, the errors are in `imagemint.exporter.errors`.
"""
