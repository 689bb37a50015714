"""Training: data, networks, objectives, the loop, the judge, and the recipes that tie them.

Light to import: torch comes with the modules that need it.
"""
