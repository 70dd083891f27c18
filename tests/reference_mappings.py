"""Mappings for the twins: every one that a dataflow allows, random ones, and sliding ones.

Plain Python from the contract's table of dataflows; imports no product code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from tests.reference import DIMENSIONS, OPERANDS, Nest, closed_counts, cost, macs_of

# --- the `strip` mapspaces --------------------------------------------------------------


def divisors(n: int) -> list[int]:
    """Return the divisors of n, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]


def strip(n: int, side: int) -> tuple[int, int]:
    """Return (strip, padded n) of the fewest strips of a dimension over a side."""
    passes = -(-n // side)
    width = -(-n // passes)
    return width, width * passes


def spatial_choices(layer: dict, accelerator: dict) -> Iterator[tuple[dict, dict, dict]]:
    """Yield (padded layer, loops on X, loops on Y) of every way to use the array."""
    side_x, side_y, dataflow = accelerator["pe_x"], accelerator["pe_y"], accelerator["dataflow"]
    if dataflow == "weight_stationary":
        on_y, k = strip(layer["K"], side_y)
        on_x, c = strip(layer["C"], side_x)
        x = {} if layer["type"] == "depthwise" else {"C": on_x}
        yield layer | {"K": k, "C": c}, x, {"K": on_y}
    elif dataflow == "output_stationary":
        on_x, p = strip(layer["P"], side_x)
        on_y, q = strip(layer["Q"], side_y)
        yield layer | {"P": p, "Q": q}, {"P": on_x}, {"Q": on_y}
    else:
        on_x, q = strip(layer["Q"], side_x)
        for k_x in range(1, side_x // on_x + 1):
            for c_y in range(1, side_y // layer["S"] + 1):
                for k_y in range(1, side_y // (layer["S"] * c_y) + 1):
                    copies = k_x * k_y
                    k = -(-layer["K"] // copies) * copies
                    c = -(-layer["C"] // c_y) * c_y
                    padded = layer | {"Q": q, "K": k, "C": c}
                    has_copies = max(k_x, c_y, k_y) > 1
                    if has_copies and 8 * macs_of(padded) > 9 * macs_of(layer):
                        continue
                    yield padded, {"Q": on_x, "K": k_x}, {"S": layer["S"], "C": c_y, "K": k_y}


#: Dimensions that may have loops in the register file, order at the global buffer (outer to
#: inner), dimensions that may have loops at DRAM.
RULES = {
    "weight_stationary": ("KCRS", "NKCSRQP", "NKCPQ"),
    "output_stationary": ("NKCPQRS", "NKQPCSR", "NKCPQ"),
    "row_stationary": ("KCR", "NQKCRP", "NKCQ"),
}


def strip_mappings(layer: dict, accelerator: dict) -> Iterator[tuple[dict, list[dict]]]:
    """Yield (padded layer, mapping) of every mapping of a shared register file that fits."""
    in_rf, gb_order, in_dram = RULES[accelerator["dataflow"]]
    for padded, x, y in spatial_choices(layer, accelerator):
        splits = []
        for dim in DIMENSIONS:
            left = padded[dim] // (x.get(dim, 1) * y.get(dim, 1))
            options = []
            for rf in divisors(left) if dim in in_rf else [1]:
                for gb in divisors(left // rf) if dim in gb_order else [1]:
                    dram = left // rf // gb
                    if dram == 1 or dim in in_dram:
                        options.append((rf, gb, dram))
            splits.append(options)
        for chosen in itertools.product(*splits):
            split = dict(zip(DIMENSIONS, chosen, strict=True))
            outer = [(d, split[d][2]) for d in DIMENSIONS if split[d][2] > 1]
            for order in itertools.permutations(outer):
                levels = (
                    ("dram", order, {}, {}),
                    ("global_buffer", [(d, split[d][1]) for d in gb_order], x, y),
                    ("register_file", [(d, split[d][0]) for d in in_rf], {}, {}),
                )
                mapping = [
                    {
                        "level": name,
                        "keeps": list(OPERANDS),
                        "temporal": [[d, b] for d, b in temporal if b > 1],
                        "spatial_x": [[d, b] for d, b in on_x.items() if b > 1],
                        "spatial_y": [[d, b] for d, b in on_y.items() if b > 1],
                    }
                    for name, temporal, on_x, on_y in levels
                ]
                if fits(padded, mapping, accelerator):
                    yield padded, mapping
                else:
                    break  # the order of the loops does not change the tiles


def fits(layer: dict, mapping: list[dict], accelerator: dict) -> bool:
    """Return whether the tiles of all operands fit the shared register file and the buffer."""
    nest = Nest(layer, mapping)
    words = [sum(math.prod(nest.box(o, level)) for o in OPERANDS) for level in (2, 1)]
    return words[0] <= accelerator["rf_words"] and words[1] <= 65536


def best_mapping(layer: dict, accelerator: dict, objective: str = "edp", **machine) -> dict | None:
    """Return the cost of the best mapping by trying all, or None if there is none."""
    keys = {
        "edp": lambda c: c["energy_pj"] * c["cycles"],
        "latency": lambda c: c["cycles"],
        "energy": lambda c: c["energy_pj"],
    }
    best = None
    for padded, mapping in strip_mappings(layer, accelerator):
        found = cost(padded, mapping, accelerator, closed_counts(padded, mapping), **machine)
        if best is None or keys[objective](found) < keys[objective](best):
            best = found | {"mapping": mapping, "layer": padded}
    return best


# --- random mappings --------------------------------------------------------------------


def random_mapping(rng, rf_mode: str = "shared") -> tuple[dict, list[dict]]:
    """Draw a small layer and any mapping of it, whatever its tiles weigh.

    Args:
        rng: A numpy Generator.
        rf_mode: "shared" or "split".
    """
    kind = str(rng.choice(["conv", "depthwise"], p=[0.75, 0.25]))
    names = ["register_file"] if rf_mode == "shared" else ["input_spad", "weight_spad", "psum_spad"]
    mapping = [
        {"level": name, "keeps": list(OPERANDS), "temporal": [], "spatial_x": [], "spatial_y": []}
        for name in ["dram", "global_buffer", *names]
    ]
    if rf_mode == "split":
        for level, operand in zip(mapping[2:], ("inputs", "weights", "outputs"), strict=True):
            level["keeps"] = [operand]
    places = [(i, "temporal") for i in range(len(mapping))]
    places += [(1, "spatial_x"), (1, "spatial_y")]
    layer = dict.fromkeys(DIMENSIONS, 1)
    # At most six loops of bound 2 or 3, each dimension perhaps at several places.
    for _ in range(int(rng.integers(3, 7))):
        dim = str(rng.choice(list(DIMENSIONS), p=[0.05, 0.1, 0.1, 0.25, 0.2, 0.2, 0.1]))
        if kind == "depthwise" and dim == "C":
            continue
        level, loops = places[int(rng.integers(len(places)))]
        if dim not in [d for d, _ in mapping[level][loops]]:
            bound = int(rng.integers(2, 5 if loops == "temporal" else 4))
            mapping[level][loops].append([dim, bound])
            layer[dim] *= bound
    stride = [int(s) for s in rng.choice([1, 1, 2, 3], size=2)]
    dilation = [int(s) for s in rng.choice([1, 1, 2, 4], size=2)]
    return {"type": kind, **layer, "stride": stride, "dilation": dilation}, mapping


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
