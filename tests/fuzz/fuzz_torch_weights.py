"""Coverage-guided fuzzing of one reader: python tests/fuzz/fuzz_torch_weights.py CORPUS -max_total_time=600."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["edgeface"]):
    import readers

if __name__ == "__main__":
    atheris.Setup(sys.argv, readers.read_torch_weights)
    atheris.Fuzz()
