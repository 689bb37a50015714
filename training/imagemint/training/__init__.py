"""Training: data, networks, losses, the loop, the judges, and the recipes that combine them.

Importing it is fast: torch is imported by the modules that need it.
"""
