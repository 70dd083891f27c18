"""What hypothesis draws for the cost model: small layers with any mapping of them.

Plain data as the twins take it.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reference import DIMENSIONS, LOOPS, OPERANDS

#: What an example may cost: loops of all kinds together.
MAX_MACS = 800


#: Settings of what CI draws: the same every time, however slow the machine is.
STEADY = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


def examples(strategy: st.SearchStrategy, number: int, *, is_steady: bool = True) -> list[Any]:
    """Return distinct examples of a strategy, small ones first, for one call on all of them."""
    drawn: list[Any] = []
    options = {**STEADY, "derandomize": is_steady, "max_examples": number}
    settings(**options)(given(strategy)(lambda example: drawn.append(example)))()
    distinct = {repr(example): example for example in drawn}
    return sorted(distinct.values(), key=lambda example: len(repr(example)))


def empty_mapping(rf_mode: str) -> list[dict]:
    """Return the levels of a mapping without loops."""
    files = {"register_file": list(OPERANDS)}
    if rf_mode == "split":
        files = {"input_spad": ["inputs"], "weight_spad": ["weights"], "psum_spad": ["outputs"]}
    keeps = {"dram": list(OPERANDS), "global_buffer": list(OPERANDS)} | files
    return [
        {"level": name, "keeps": kept, "temporal": [], "spatial_x": [], "spatial_y": []}
        for name, kept in keeps.items()
    ]


@st.composite
def mapped_layers(draw, rf_mode: str = "shared", max_macs: int = MAX_MACS) -> tuple:
    """Draw a layer and a mapping of it, whatever its tiles weigh.

    The mapping comes first: up to seven loops, each dimension perhaps at several places,
    any of them absent; so 1-D, dense, batched and pointwise layers are all drawn.
    """
    kind = draw(st.sampled_from(["conv", "conv", "grouped", "depthwise"]))
    dims = {"conv": "NKCPQRS", "grouped": "NKCPQRSG", "depthwise": "NKPQRS"}[kind]
    mapping = empty_mapping(rf_mode)
    places = [(i, "temporal") for i in range(len(mapping))]
    places += [(1, "spatial_x"), (1, "spatial_y")]
    loops = draw(
        st.lists(
            st.tuples(st.sampled_from(dims), st.integers(2, 4), st.sampled_from(places)),
            max_size=7,
            unique_by=lambda loop: (loop[0], loop[2]),
        )
    )
    bounds, macs = dict.fromkeys(LOOPS, 1), 1
    for dim, bound, (level, where) in loops:
        if macs * bound <= max_macs:
            macs *= bound
            mapping[level][where].append([dim, bound])
            bounds[dim] *= bound
    steps = st.tuples(st.integers(1, 3), st.integers(1, 3))
    layer = {d: bounds[d] for d in DIMENSIONS} | {
        "type": "depthwise" if kind == "depthwise" else "conv",
        "stride": list(draw(steps)),
        "dilation": list(draw(steps)),
    }
    if kind == "grouped":
        layer |= {"K": bounds["K"] * bounds["G"], "groups": bounds["G"]}
    assert math.prod(layer[d] for d in DIMENSIONS) == macs
    return layer, mapping


#: Kind of layer to the loops that it has, and those that it may have.
FAMILIES = {
    "conv": ("KCPQ", "RS"),
    "dense": ("KC", ""),
    "1-D": ("KCP", "R"),
    "depthwise": ("KPQ", "RS"),
    "batch": ("NKCPQ", "RS"),
    "grouped": ("GKCPQ", "RS"),
    "any": ("", "NKCPQRS"),
    "any grouped": ("", "GNKCPQRS"),
    "any depthwise": ("", "NKPQRS"),
}


@st.composite
def small_layers(draw, family: str, max_tilings: int = 600) -> dict:
    """Draw a layer of so few tilings that every mapping of it can be tried.

    Args:
        draw: Of hypothesis.
        family: A key of FAMILIES.
        max_tilings: How many tilings its loops may have together.
    """
    always, perhaps = FAMILIES[family]
    sizes = {d: (2, 3, 4, 5, 6, 7, 8, 9, 12) for d in LOOPS}
    sizes |= {"N": (2, 3), "G": (2, 3, 4), "R": (2, 3, 5), "S": (2, 3, 4)}
    bounds = dict.fromkeys(LOOPS, 1) | dict.fromkeys(always, 2)
    for dim in draw(st.permutations(always + perhaps)):
        bound = draw(st.sampled_from(sizes[dim] if dim in always else (1, *sizes[dim])))
        tilings = math.prod(_three_way_splits(b) for b in (bounds | {dim: bound}).values())
        if tilings <= max_tilings:
            bounds[dim] = bound
    steps = st.tuples(st.integers(1, 3), st.integers(1, 2))
    layer = {d: bounds[d] for d in DIMENSIONS} | {
        "type": "depthwise" if "depthwise" in family else "conv",
        "stride": list(draw(steps)),
        "dilation": list(draw(steps)),
    }
    if "grouped" in family:
        layer |= {"K": bounds["K"] * bounds["G"], "groups": bounds["G"]}
    return layer


@functools.cache
def _three_way_splits(bound: int) -> int:
    """Return in how many ways a bound is a product of three factors."""
    pairs = [a for a in range(1, bound + 1) if bound % a == 0]
    return sum(1 for a in pairs for b in pairs if (bound // a) % b == 0)
