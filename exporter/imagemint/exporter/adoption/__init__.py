"""Adoption: a generator that another program exported becomes a bundle.

foreign_model.py  your description of the file
model_file.py     the file, with weights that are in a second file
conversion.py     its conversion to our operator set
operators.py      its operators: functions, Dropout, and those that are refused
signature.py      which input and output is which, and in what form
original.py       the original file, which runs unchanged
batch_axis.py     a graph for one batch size, made to take any
value_range.py    whether the declared value range fits the values
adopt.py          the graph of a bundle around the graph of the file
"""

from imagemint.exporter.adoption.adopt import AdoptedModel, adopt
from imagemint.exporter.adoption.foreign_model import ForeignModel

__all__ = ["AdoptedModel", "ForeignModel", "adopt"]
