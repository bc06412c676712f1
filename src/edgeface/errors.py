"""The errors a caller can tell apart; a bad argument is a plain ValueError or TypeError."""

from __future__ import annotations


class ModelError(Exception):
    """A model file, its spec, or the network in it is damaged, unsupported or inconsistent."""


class BackendError(Exception):
    """A runtime is missing, cannot run this network, or failed while running it."""


class DataError(Exception):
    """An image, a label or a data set is damaged, missing or not of a known form."""
