"""Every mapping that a rule lets a dataflow use, by plain enumeration; and sliding ones.

Plain Python from the contract's table of dataflows; imports no product code. What the
contract leaves open for grouped layers is settled as the product's documents say: G may
be tiled wherever K may, its loops stand directly outside those of K, and copies of it
fill what K leaves of a side. Where a group has one output channel, G takes K's place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from tests.reference import (
    DIMENSIONS,
    LOOPS,
    OPERANDS,
    Nest,
    closed_counts,
    cost_of,
    loop_bounds,
    tally,
)

#: Order at the global buffer, outer to inner.
BUFFER_ORDER = {
    "weight_stationary": "NGKCSRQP",
    "output_stationary": "NGKQPCSR",
    "row_stationary": "NSQGKCRP",
}
#: Loops that may be at DRAM, in any order.
IN_DRAM = {
    "weight_stationary": "NGKCPQ",
    "output_stationary": "NGKCPQ",
    "row_stationary": "NGKCQ",
}
#: Loops that may be in each register file, by its level: outer to inner where it matters.
IN_FILES = {
    ("shared", "weight_stationary"): {"register_file": "GKCRS"},
    ("shared", "output_stationary"): {"register_file": "NGKCPQRS"},
    ("shared", "row_stationary"): {"register_file": "GKCR"},
    ("split", "weight_stationary"): {"input_spad": "", "weight_spad": "CSR", "psum_spad": "GK"},
    ("split", "output_stationary"): {"input_spad": "", "weight_spad": "CSR", "psum_spad": "NGKPQ"},
    ("split", "row_stationary"): {"input_spad": "", "weight_spad": "CR", "psum_spad": "GK"},
}
_KEEPS = {"input_spad": ["inputs"], "weight_spad": ["weights"], "psum_spad": ["outputs"]}

# --- how the array is used --------------------------------------------------------------


def divisors(n: int) -> list[int]:
    """Return the divisors of n, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]


def strip(n: int, side: int) -> int:
    """Return the width of the fewest strips of a dimension over a side."""
    return -(-n // -(-n // side))


def largest_divisor(n: int, side: int) -> int:
    """Return the largest divisor that fits a side."""
    return max(d for d in divisors(n) if d <= side)


def channel_loop(layer: dict) -> str:
    """Return the loop that stands for output channels on the array."""
    bounds = loop_bounds(layer)
    return "G" if bounds["K"] == 1 and bounds["G"] > 1 else "K"


def spreads(layer: dict, array: dict, rule: str) -> Iterator[tuple[dict, dict, dict]]:
    """Yield (padded bounds, factors on X, factors on Y) of every way to use the array."""
    choices = {"strip": _strip_factors, "timeloop": _perfect_factors}[rule]
    bounds = loop_bounds(layer)
    for x, y, has_copies in choices(layer, array):
        on_array = {d: x.get(d, 1) * y.get(d, 1) for d in LOOPS}
        padded = {d: -(-bounds[d] // on_array[d]) * on_array[d] for d in LOOPS}
        is_little = 8 * math.prod(padded.values()) <= 9 * math.prod(bounds.values())
        if is_little or not has_copies:
            yield padded, x, y


def _strip_factors(layer: dict, array: dict) -> Iterator[tuple[dict, dict, bool]]:
    """Yield (factors on X, on Y, whether there are copies beside the strips)."""
    side_x, side_y = array["pe_x"], array["pe_y"]
    bounds, channels = loop_bounds(layer), channel_loop(layer)
    if array["dataflow"] == "weight_stationary":
        x = {"C": strip(bounds["C"], side_x)}
        on_y = strip(bounds[channels], side_y)
        for groups in _copies(bounds, "G" if channels == "K" else "", side_y // on_y):
            yield x, {channels: on_y} | groups, max(groups.values(), default=1) > 1
    elif array["dataflow"] == "output_stationary":
        yield {"P": strip(bounds["P"], side_x)}, {"Q": strip(bounds["Q"], side_y)}, False
    elif bounds["S"] <= side_y:
        on_x = strip(bounds["Q"], side_x)
        for more_x in _copies(bounds, "KG", side_x // on_x):
            for more_y in _copies(bounds, "CKG", side_y // bounds["S"]):
                has_copies = max(*more_x.values(), *more_y.values()) > 1
                yield {"Q": on_x} | more_x, {"S": bounds["S"]} | more_y, has_copies


def _copies(bounds: dict, loops: str, room: int) -> Iterator[dict[str, int]]:
    """Yield every number of copies that fits: of each loop up to its bound."""
    for numbers in itertools.product(*(range(1, min(room, bounds[d]) + 1) for d in loops)):
        if math.prod(numbers) <= room:
            yield dict(zip(loops, numbers, strict=True))


def _perfect_factors(layer: dict, array: dict) -> Iterator[tuple[dict, dict, bool]]:
    side_x, side_y = array["pe_x"], array["pe_y"]
    bounds, channels = loop_bounds(layer), channel_loop(layer)
    if array["dataflow"] == "weight_stationary":
        x = {"C": largest_divisor(bounds["C"], side_x)}
        yield x, {channels: largest_divisor(bounds[channels], side_y)}, False
    elif array["dataflow"] == "output_stationary":
        x = {"P": largest_divisor(bounds["P"], side_x)}
        yield x, {"Q": largest_divisor(bounds["Q"], side_y)}, False
    elif bounds["S"] <= side_y:
        for q, k_x, g_x, k_y, g_y, c in itertools.product(
            *(divisors(bounds[d]) for d in ("Q", "K", "G", "K", "G", "C"))
        ):
            is_perfect = bounds["K"] % (k_x * k_y) == bounds["G"] % (g_x * g_y) == 0
            fits = q * k_x * g_x <= side_x and bounds["S"] * c * k_y * g_y <= side_y
            if is_perfect and fits:
                y = {"S": bounds["S"], "C": c, "K": k_y, "G": g_y}
                yield {"Q": q, "K": k_x, "G": g_x}, y, False


# --- what is left, over the levels ------------------------------------------------------


def mappings(layer: dict, array: dict, rule: str = "strip") -> Iterator[tuple[dict, list[dict]]]:
    """Yield (padded layer, mapping) of every mapping whose register-file tiles fit.

    Args:
        layer: Plain layer.
        array: pe_x, pe_y, rf_words, dataflow and perhaps rf_mode.
        rule: "strip" or "timeloop".
    """
    dataflow = array["dataflow"]
    in_files = IN_FILES[array.get("rf_mode", "shared"), dataflow]
    places = {"dram": IN_DRAM[dataflow], "global_buffer": BUFFER_ORDER[dataflow]} | in_files
    for padded, x, y in spreads(layer, array, rule):
        whole = dict(layer) | {d: padded[d] for d in DIMENSIONS}
        if padded["G"] > 1 or "groups" in layer:
            whole |= {"K": padded["K"] * padded["G"], "groups": padded["G"]}
        options = [
            list(_splits(padded[d] // (x.get(d, 1) * y.get(d, 1)), d, places)) for d in LOOPS
        ]
        for chosen in itertools.product(*options):
            split = dict(zip(LOOPS, chosen, strict=True))
            outer = [d for d in LOOPS if split[d].get("dram", 1) > 1]
            for order in itertools.permutations(outer):
                mapping = [
                    {
                        "level": level,
                        "keeps": _KEEPS.get(level, list(OPERANDS)),
                        "temporal": _live((d, split[d].get(level, 1)) for d in loops),
                        "spatial_x": _live(x.items()) if level == "global_buffer" else [],
                        "spatial_y": _live(y.items()) if level == "global_buffer" else [],
                    }
                    for level, loops in (places | {"dram": order}).items()
                ]
                if rf_words_of(whole, mapping) > array["rf_words"]:
                    break  # the order of the loops does not change the tiles
                yield whole, mapping


def _splits(bound: int, loop: str, places: dict[str, str]) -> Iterator[dict[str, int]]:
    """Yield the factors of a loop at the levels that allow it; their product is its bound."""
    levels = [level for level, loops in places.items() if loop in loops]
    for factors in itertools.product(divisors(bound), repeat=len(levels) - 1):
        inner = math.prod(factors)
        if bound % inner == 0:
            yield dict(zip(levels, (bound // inner, *factors), strict=True))


def _live(loops) -> list[list]:
    return [[d, b] for d, b in loops if b > 1]


def rf_words_of(layer: dict, mapping: list[dict]) -> int:
    """Return what a register file must hold: all tiles together, or the largest of three."""
    nest = Nest(layer, mapping)
    tiles = [math.prod(nest.box(o, nest.level_of(o, is_global=False))) for o in OPERANDS]
    return sum(tiles) if len(mapping) == 3 else max(tiles)


def buffer_words_of(layer: dict, mapping: list[dict]) -> int:
    """Return what the global buffer must hold."""
    nest = Nest(layer, mapping)
    return sum(math.prod(nest.box(o, 1)) for o in OPERANDS)


# --- the best of them -------------------------------------------------------------------


class Mapspace:
    """All mappings of a layer on one array with their tallies; costed for many machines."""

    def __init__(
        self, layer: dict, array: dict, rule: str = "strip", accounting: str = "timeloop_2020"
    ):
        self.array = array
        self.entries = []
        for padded, mapping in mappings(layer, array, rule):
            counts = closed_counts(padded, mapping, accounting)
            found = tally(padded, mapping, array["dataflow"], counts)
            needs = rf_words_of(padded, mapping), buffer_words_of(padded, mapping)
            self.entries.append((*needs, found, padded, mapping))

    def best(
        self,
        objective: str = "edp",
        *,
        rf_words: int | None = None,
        buffer_words: int = 65536,
        **machine,
    ) -> dict | None:
        """Return the cost of the best mapping that fits, or None if there is none.

        Args:
            objective: "edp", "latency" (then energy) or "energy".
            rf_words: Of the register file; that of the array if not given.
            buffer_words: Of the global buffer.
            **machine: As for `reference.cost_of`.
        """
        array = self.array | {"rf_words": rf_words or self.array["rf_words"]}
        key = {
            "edp": lambda c: c["energy_pj"] * c["cycles"],
            "latency": lambda c: (c["cycles"], c["energy_pj"]),
            "energy": lambda c: c["energy_pj"],
        }[objective]
        costs = [
            cost_of(found, array, **machine) | {"layer": padded, "mapping": mapping}
            for rf_need, buffer_need, found, padded, mapping in self.entries
            if rf_need <= array["rf_words"] and buffer_need <= buffer_words
        ]
        return min(costs, key=key, default=None)


# --- sliding mappings -------------------------------------------------------------------


def sliding_mappings() -> Iterator[tuple[dict, list[dict]]]:
    """Yield mappings whose input box slides, goes on, goes back or stands still at a wrap.

    All orders of an output loop, a filter loop and an idle one over all small bounds,
    tiles, strides and dilations; along the width and along the height.
    """
    orders = (("out", "tap"), ("tap", "out"), ("tap", "idle", "out"), ("tap", "out", "idle"))
    for axes in ({"out": "P", "tap": "R"}, {"out": "Q", "tap": "S"}):
        choices = itertools.product((2, 3), (2, 3), (1, 2), (1, 2, 3), (1, 2, 3), (1, 2), orders)
        for out, tap, rf_out, rf_tap, stride, dilation, order in choices:
            names = axes | {"idle": "K"}
            bounds = {"out": out, "tap": tap, "idle": 2}
            layer = dict.fromkeys(DIMENSIONS, 1)
            layer |= {axes["out"]: out * rf_out, axes["tap"]: tap * rf_tap}
            layer |= {"K": 2 if "idle" in order else 1, "type": "conv"}
            temporal = (
                [],
                [[names[loop], bounds[loop]] for loop in order],
                [[axes["out"], rf_out], [axes["tap"], rf_tap]],
            )
            mapping = [
                {"level": name, "keeps": list(OPERANDS), "temporal": loops}
                | {"spatial_x": [], "spatial_y": []}
                for name, loops in zip(
                    ("dram", "global_buffer", "register_file"), temporal, strict=True
                )
            ]
            yield layer | {"stride": stride, "dilation": dilation}, mapping
