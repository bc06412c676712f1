"""ONNX <-> Graph, for the operators that face detectors are made of.

Reading folds what an exporter left to be computed when the network runs: shape arithmetic, batch
normalisation, box decoding. Quantised networks are in QDQ form, whether this package or onnxruntime's
quantiser wrote them. Field numbers are those of onnx.proto, operators' meanings those of
onnx/docs/Operators.md and Changelog.md.
"""

from __future__ import annotations

from .decoding import Decoding
from .reader import Imported, load, read
from .writer import write

__all__ = ["Decoding", "Imported", "load", "read", "write"]
