"""Bundles: reads and checks them, and refuses those that cannot be served.

reader.py           reads a bundle and checks it against its manifest
sums.py             the digests in SHA256SUMS
signatures.py       signatures, which identify who exported a bundle
graph_checks.py     operators, domains and references that a graph may have
growth.py           whether shape inference itself is cheap
shapes.py           shapes of the values for several batch sizes
memory_estimate.py  how many nodes and how much memory a graph needs
row_mixing.py       operators that let the rows of a batch affect each other
probe_hints.py      hints for the probe of a graph
findings.py         results of the probe of a bundle
critic.py           the graph that scores images
variants.py         the graphs of a bundle, and which one a device runs
shipped.py          the models that are shipped with imagemint
"""

from imagemint.engine.bundle.reader import MANIFEST_KEY, Bundle, Document, read_bundle
from imagemint.engine.bundle.sums import MODEL_FILE, SUMS_FILE

__all__ = ["MANIFEST_KEY", "MODEL_FILE", "SUMS_FILE", "Bundle", "Document", "read_bundle"]
