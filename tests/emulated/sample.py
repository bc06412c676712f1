"""A pytest plugin: what an emulated CPU runs of the core's tests; it is some 20 times slower than its host.

Of a test for every ISA, as many cases as show each value of every parameter once: a convolution of every kind, but not
each for every type and number of threads. Of any other at most --cases, chosen alike. Of Hypothesis's examples
--examples. It is the same choice every time; what is left out counts as deselected.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from pathlib import Path

from hypothesis import settings

HERE = Path(__file__).resolve().parent
# Each with what it would cost, and why that can be saved.
LEFT_OUT = {
    "test_every_word_overwritten_gives_a_graph_or_a_model_error": "minutes, of Python alone",
    "test_files_with_changed_fields_are_read_or_a_model_error": "a quarter of a minute, of Python alone",
    "test_longest_chain_is_read_in_bounded_time": "a minute, of Python alone",
    "test_the_bytes_of_photographs_are_those_of_the_reference": "NumPy's minutes; the digests say it",
    "test_quantised_tmfiles_find_what_their_float_twin_finds": "half a minute; the digests say it",
}


def pytest_addoption(parser):
    parser.addoption("--cases", type=int, default=1000, help="of each test; default 1000")
    parser.addoption("--examples", type=int, default=1000, help="of each property; default 1000")
    parser.addoption("--isa", action="append", help="leave out all others; may be given twice")


def pytest_collection_modifyitems(config, items):
    of_test = defaultdict(list)
    for item in items:
        if item.originalname not in LEFT_OUT and is_wanted(item, config.getoption("isa")):
            isa = parameters(item).get("isa", "")
            of_test[item.location[0], item.originalname, isa].append(item)
            draw_fewer(item.obj, config.getoption("examples"))
    kept = set()
    for (_, _, isa), cases in of_test.items():
        kept.update(spread(cases, len(cases) if isa else config.getoption("cases"), bool(isa)))
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def parameters(item):
    return item.callspec.params if hasattr(item, "callspec") else {}


def is_wanted(item, isas):
    """Whether this CPU has its ISA, and that one is wanted; where some are, tests for none were run elsewhere."""
    reasons = (str(mark.kwargs.get("reason", "")) for mark in item.iter_markers("skip"))
    if any(reason.startswith("this CPU has no ") for reason in reasons):
        return False
    isa = parameters(item).get("isa")
    return not isas or isa in isas or (isa is None and HERE in item.path.parents)


def spread(cases, count, until_all_is_shown):
    """Of a test's cases so many at most, each showing as many values of its parameters as possible for the first time."""
    # Neighbours differ in little: of equals, take them from everywhere.
    left = sorted(cases, key=lambda item: zlib.crc32(item.nodeid.encode()))
    chosen, shown = [], set()
    while left and len(chosen) < count:
        best = max(left, key=lambda item: len(values(item) - shown))
        if until_all_is_shown and chosen and not values(best) - shown:
            break
        left.remove(best)
        chosen.append(best)
        shown |= values(best)
    return chosen


def values(item):
    """(parameter, its value), for each."""
    return {(name, repr(value)) for name, value in parameters(item).items()}


def draw_fewer(test, count):
    """Hypothesis has no way to lower what a test itself asks for."""
    test = getattr(test, "__func__", test)
    asked = getattr(test, "_hypothesis_internal_use_settings", None)
    if asked is not None:
        test._hypothesis_internal_use_settings = settings(
            asked, max_examples=min(count, asked.max_examples), deadline=None, database=None
        )
