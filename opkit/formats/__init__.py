"""Files others made, read and written: MATLAB, PyTorch, PDEBench, The Well; and what their content means."""

from opkit.formats.base import Arrays, Column, Content, Samples, open_arrays
from opkit.formats.imported import ImportedDataset, open_dataset
from opkit.formats.tables import recognise

__all__ = ["Arrays", "Column", "Content", "ImportedDataset", "Samples", "open_arrays", "open_dataset", "recognise"]
