"""Readers of model files: bytes in, a Graph out, ModelError for anything else."""
