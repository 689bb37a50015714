"""Recipes: one small typed file each. Importing one does not import torch."""
