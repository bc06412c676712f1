"""A pytest plugin: of each test's cases at most --cases, the same ones every time; an emulated CPU is some 20 times slower.

Cases for an ISA of another architecture go first; what is left out is counted as deselected.
"""

from __future__ import annotations

import zlib
from collections import defaultdict

# Minutes each: half a minute on a board's host.
SLOW = ("test_every_word_overwritten_gives_a_graph_or_a_model_error",)


def pytest_addoption(parser):
    parser.addoption("--cases", type=int, default=1000, help="of each test; default 1000")


def pytest_collection_modifyitems(config, items):
    of_test = defaultdict(list)
    for item in items:
        foreign = any(mark.name == "skip" and is_foreign(mark) for mark in item.iter_markers())
        if not foreign and item.originalname not in SLOW:
            of_test[item.location[0], item.originalname].append(item)
    kept = set()
    for cases in of_test.values():
        # Neighbours differ in little: take them from everywhere.
        cases.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))
        kept.update(cases[: config.getoption("cases")])
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def is_foreign(mark):
    return str(mark.kwargs.get("reason", "")).startswith("this CPU has no ")
