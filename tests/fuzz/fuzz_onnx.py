"""Coverage-guided fuzzing of one reader: python tests/fuzz/fuzz_onnx.py CORPUS -max_total_time=600."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["edgeface"]):
    import readers


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Half of the time field by field: a flipped byte mostly breaks the lengths around it."""
    changed = readers.mutated_onnx(data, seed) if seed % 2 else None
    if changed is None or len(changed) > max_size:
        return atheris.Mutate(data, max_size)
    return changed


if __name__ == "__main__":
    atheris.Setup(sys.argv, readers.read_onnx, custom_mutator=mutate)
    atheris.Fuzz()
