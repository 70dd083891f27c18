"""Slow, plain-Python twins of the cost model, written from the contract alone.

Nothing here imports the product. Layers, accelerators and mappings are the plain
data of a reference case (a dict, a dict and a list of levels), so that each twin
can be held against real runs before the product is held against the twin.

* `walk_counts` steps through the temporal loops one by one with the box in hand.
* `closed_counts` is the formula per loop, for mappings too long to walk.
* `strip_mappings` lists every mapping that the three dataflows allow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

DIMENSIONS = "NKCPQRS"
OPERANDS = ("weights", "inputs", "outputs")

# --- energy and area, typed in from the contract's table -------------------------------

RF_PJ = {4: 0.200, 8: 0.215, 16: 0.251, 32: 0.338, 64: 0.541, 128: 1.005, 256: 2.050}
RF_UM2 = {
    4: 292.18,
    8: 327.18,
    16: 414.68,
    32: 624.68,
    64: 1114.68,
    128: 2234.68,
    256: 4754.68,
}
MAC_PJ, MAC_UM2, DRAM_PJ = 2.2, 1239.5, 128.0


def technology(name: str, rf_words: int, accounting: str = "timeloop_2020") -> dict[str, float]:
    """Return pJ per access and um2 of each component of a machine."""
    flip_flops_um2 = 16 * 5.98 * rf_words + 180
    common = {"pitch_mm": math.sqrt((flip_flops_um2 + MAC_UM2) * 1e-6)}
    if name == "accelergy_2020_45nm":
        return common | {
            # Timeloop of 2020 charges the dearest action for all; that of 2025 each its own.
            "gb_read_pj": (74.144 if accounting == "timeloop_2025" else 75.215) / 4,
            "gb_write_pj": 75.215 / 4,
            "gb_um2": 1162549.0,
            "rf_um2": RF_UM2[rf_words],
            "wire_pj": 0.0,
        }
    assert name == "cacti_45nm"
    return common | {
        "gb_read_pj": 28.5989 / 4,
        "gb_write_pj": 28.5989 / 4,
        "gb_um2": 530829.0,
        "rf_um2": flip_flops_um2,
        "wire_pj": 0.3254,
    }


# --- layers and loops ------------------------------------------------------------------


def pair(value) -> tuple[int, int]:
    """Return (width, height) of a stride or dilation given as one number or two."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def used_dims(layer: dict, operand: str) -> str:
    """Return the dimensions that index an operand."""
    channel = "K" if layer["type"] == "depthwise" else "C"
    return {"weights": "KCRS", "inputs": "N" + channel + "PQRS", "outputs": "NKPQ"}[operand]


def coordinates(layer: dict, operand: str, index: dict[str, int]) -> tuple[int, ...]:
    """Return where in its operand the element of a loop index lies."""
    if operand == "weights":
        return tuple(index[d] for d in "KCRS")
    if operand == "outputs":
        return tuple(index[d] for d in "NKPQ")
    (stride_w, stride_h), (dilation_w, dilation_h) = pair(layer["stride"]), pair(layer["dilation"])
    channel = index["K"] if layer["type"] == "depthwise" else index["C"]
    width = index["P"] * stride_w + index["R"] * dilation_w
    height = index["Q"] * stride_h + index["S"] * dilation_h
    return (index["N"], channel, width, height)


def box_of(layer: dict, operand: str, bounds: dict[str, int]) -> tuple[int, ...]:
    """Return the sides of the bounding box of loops 0..bound-1 in each dimension."""
    last = coordinates(layer, operand, {d: bounds[d] - 1 for d in DIMENSIONS})
    return tuple(side + 1 for side in last)


def macs_of(layer: dict) -> int:
    """Return the multiply-accumulates of a layer."""
    return math.prod(layer[d] for d in DIMENSIONS)


class Nest:
    """A mapping as one flat list of loops, outer to inner: (dim, bound, kind, level)."""

    def __init__(self, layer: dict, mapping: list[dict]):
        self.layer, self.mapping = layer, mapping
        self.loops = []
        for position, level in enumerate(mapping):
            for kind in ("temporal", "spatial_x", "spatial_y"):
                self.loops += [(d, b, kind, position) for d, b in level[kind] if b > 1]
        for dim in DIMENSIONS:
            assert math.prod(b for d, b, _, _ in self.loops if d == dim) == layer[dim], dim

    def step(self, i: int) -> int:
        """Return by how much loop i advances its dimension."""
        return math.prod(b for d, b, _, _ in self.loops[i + 1 :] if d == self.loops[i][0])

    def spatial(self, kinds=("spatial_x", "spatial_y")) -> list[tuple[str, int]]:
        """Return (dim, bound) of the spatial loops."""
        return [(d, b) for d, b, kind, _ in self.loops if kind in kinds]

    def level_of(self, operand: str, *, is_global: bool) -> int:
        """Return the position of the level whose instances hold the operand's tile."""
        if is_global:
            return 1
        return next(i for i in (2, 3, 4) if operand in self.mapping[i]["keeps"])

    def outside(self, level: int) -> list[int]:
        """Return the temporal loops outside an instance of a level, outer to inner."""
        return [i for i, loop in enumerate(self.loops) if loop[2] == "temporal" and loop[3] < level]

    def box(self, operand: str, level: int) -> tuple[int, ...]:
        """Return the box that one instance of a level holds."""
        bounds = {
            dim: math.prod(b for d, b, _, at in self.loops if d == dim and at >= level)
            for dim in DIMENSIONS
        }
        return box_of(self.layer, operand, bounds)


# --- fills -----------------------------------------------------------------------------


def rule(jump, box, direction) -> tuple[int, object]:
    """Return (words filled, direction remembered) of one step of the box's corner."""
    moved = [axis for axis, distance in enumerate(jump) if distance]
    if not moved:
        return 0, None
    axis = moved[0]
    heading = (axis, jump[axis] > 0)
    is_slide = len(moved) == 1 and abs(jump[axis]) < box[axis]
    if is_slide and direction in (None, heading):
        return math.prod(box) // box[axis] * abs(jump[axis]), heading
    return math.prod(box), None


def walk_fills(nest: Nest, operand: str, level: int) -> tuple[int, int]:
    """Return (words filled into one instance, words of distinct boxes held), walked."""
    outside = nest.outside(level)
    box = nest.box(operand, level)
    fills, direction, held, seen = math.prod(box), None, None, set()
    for iterations in itertools.product(*(range(nest.loops[i][1]) for i in outside)):
        index = dict.fromkeys(DIMENSIONS, 0)
        for i, iteration in zip(outside, iterations, strict=True):
            index[nest.loops[i][0]] += iteration * nest.step(i)
        corner = coordinates(nest.layer, operand, index)
        if held is not None:
            jump = [new - old for new, old in zip(corner, held, strict=True)]
            words, direction = rule(jump, box, direction)
            fills += words
        held = corner
        seen.add(corner)
    return fills, len(seen) * math.prod(box)


def closed_fills(nest: Nest, operand: str, level: int) -> tuple[int, int]:
    """Return the same as `walk_fills` by the formula per loop."""
    outside = nest.outside(level)
    box = nest.box(operand, level)

    def corner(moves: list[tuple[int, int]]) -> tuple[int, ...]:
        index = dict.fromkeys(DIMENSIONS, 0)
        for i, iteration in moves:
            index[nest.loops[i][0]] += iteration * nest.step(i)
        return coordinates(nest.layer, operand, index)

    fills, direction = math.prod(box), None
    for position in reversed(range(len(outside))):
        i, inner = outside[position], outside[position + 1 :]
        own = corner([(i, 1)])
        wrapped = corner([(j, nest.loops[j][1] - 1) for j in inner])
        jump = [a - b for a, b in zip(own, wrapped, strict=True)]
        words, heading = rule(jump, box, direction)
        if not inner:
            direction = heading  # what every outer step finds remembered
        steps = math.prod(nest.loops[j][1] for j in outside[:position]) * (nest.loops[i][1] - 1)
        fills += steps * words
    dims = used_dims(nest.layer, operand)
    tiles = math.prod(nest.loops[i][1] for i in outside if nest.loops[i][0] in dims)
    return fills, tiles * math.prod(box)  # distinct only for outputs, whose boxes are disjoint


def _counts(layer: dict, mapping: list[dict], accounting: str, fills_of) -> dict:
    """Return counts[level][operand] of reads, fills, updates and tile words."""
    nest = Nest(layer, mapping)
    macs = macs_of(layer)
    pes = list(itertools.product(*(range(b) for _, b in nest.spatial())))
    charges_first = accounting == "timeloop_2020"
    counts = {level["level"]: {} for level in mapping}
    for operand in OPERANDS:
        used = used_dims(layer, operand)
        rf_level = nest.level_of(operand, is_global=False)
        rf_fills, rf_first = fills_of(nest, operand, rf_level)
        gb_fills, gb_first = fills_of(nest, operand, 1)
        # PEs whose spatial indices agree in every dimension the operand uses hold the same
        # tile: they share a read, and their partial sums are added on the way up.
        is_used = [d in used for d, _ in nest.spatial()]
        groups = len({tuple(itertools.compress(pe, is_used)) for pe in pes})
        rf = counts[mapping[rf_level]["level"]][operand] = {
            "reads": macs,
            "fills": rf_fills * len(pes),
            "updates": 0,
            "tile_words": math.prod(nest.box(operand, rf_level)),
        }
        gb = counts["global_buffer"][operand] = {
            "reads": rf_fills * groups,
            "fills": gb_fills,
            "updates": 0,
            "tile_words": math.prod(nest.box(operand, 1)),
        }
        whole = {d: layer[d] for d in DIMENSIONS}
        dram = counts["dram"][operand] = {
            "reads": gb_fills,
            "fills": 0,
            "updates": 0,
            "tile_words": math.prod(box_of(layer, operand, whole)),
        }
        if operand == "outputs":
            rf |= {"updates": macs, "reads": macs - rf_first * len(pes)}
            gb |= {"updates": rf_fills * groups, "reads": (rf_fills - rf_first) * groups}
            dram |= {"updates": gb_fills, "reads": gb_fills - gb_first}
            if not charges_first:
                rf["fills"] -= rf_first * len(pes)
                gb["fills"] -= gb_first
    return counts


def walk_counts(layer: dict, mapping: list[dict], accounting: str = "timeloop_2020") -> dict:
    """Return all access counts by walking the loops."""
    return _counts(layer, mapping, accounting, walk_fills)


def closed_counts(layer: dict, mapping: list[dict], accounting: str = "timeloop_2020") -> dict:
    """Return all access counts by the formula per loop."""
    return _counts(layer, mapping, accounting, closed_fills)


# --- cost ------------------------------------------------------------------------------


def hops(sharing: int, fanout: int) -> float:
    """Return PE pitches travelled by one word that reaches `sharing` of `fanout` PEs."""
    m, n = sharing, fanout
    return math.sqrt(n * m) + (math.sqrt(n) - math.sqrt(m)) / 2 - math.sqrt(n / m) + 0.5


def wire_pj(layer: dict, mapping: list[dict], dataflow: str, rf_words: int, counts: dict) -> dict:
    """Return the wire energy per operand between global buffer and PEs."""
    nest = Nest(layer, mapping)
    energy = {}
    for operand in OPERANDS:
        used = used_dims(layer, operand)

        def fan(kinds, used=used):
            loops = nest.spatial(kinds)
            shared = math.prod(b for d, b in loops if d not in used)
            return shared, math.prod(b for _, b in loops)

        access = counts["global_buffer"][operand]
        transfers = access["updates"] if operand == "outputs" else access["reads"]
        if dataflow == "row_stationary":
            (m_x, n_x), (m_y, n_y) = fan(["spatial_x"]), fan(["spatial_y"])
            pitches = transfers * hops(m_x, n_x) + transfers * m_x * hops(m_y, n_y)
        else:
            pitches = transfers * hops(*fan(["spatial_x", "spatial_y"]))
        pitch_mm = technology("cacti_45nm", rf_words)["pitch_mm"]
        energy[operand] = 16 * 0.3254 * pitch_mm * pitches
    return energy


def cost(
    layer: dict,
    mapping: list[dict],
    accelerator: dict,
    counts: dict,
    *,
    technology_name: str = "cacti_45nm",
    accounting: str = "timeloop_2020",
    dram_words_per_cycle: float | None = 6.4,
) -> dict:
    """Return cycles, energy by component and area of a mapping with these counts."""
    table = technology(technology_name, accelerator["rf_words"], accounting)
    total = {
        level: {kind: sum(a[kind] for a in accesses.values()) for kind in ("reads", "fills")}
        | {"updates": sum(a["updates"] for a in accesses.values())}
        for level, accesses in counts.items()
    }
    buffer, dram = total["global_buffer"], total["dram"]
    cycles = {
        "compute": math.prod(b for _, b, kind, _ in Nest(layer, mapping).loops if kind[0] == "t"),
        "global_buffer_reads": math.ceil(Fraction(buffer["reads"], 16)),
        "global_buffer_writes": math.ceil(Fraction(buffer["fills"] + buffer["updates"], 16)),
    }
    if dram_words_per_cycle is not None:
        words_per_cycle = Fraction(str(dram_words_per_cycle))
        cycles["dram"] = math.ceil((dram["reads"] + dram["updates"]) / words_per_cycle)
    wires = wire_pj(layer, mapping, accelerator["dataflow"], accelerator["rf_words"], counts)
    inner = [t for level, t in total.items() if level not in ("dram", "global_buffer")]
    energy = {
        "mac": MAC_PJ * macs_of(layer),
        "register_file": RF_PJ[accelerator["rf_words"]] * sum(sum(t.values()) for t in inner),
        "global_buffer": table["gb_read_pj"] * buffer["reads"]
        + table["gb_write_pj"] * (buffer["fills"] + buffer["updates"]),
        "dram": DRAM_PJ * sum(dram.values()),
        "wires": sum(wires.values()) if table["wire_pj"] else 0.0,
    }
    files = 3 if accelerator.get("rf_mode", "shared") == "split" else 1
    pes = accelerator["pe_x"] * accelerator["pe_y"]
    return {
        "cycles": max(cycles.values()),
        "compute_cycles": cycles["compute"],
        "bound_by": max(cycles, key=cycles.get),
        "energy_pj": sum(energy.values()),
        "energy": energy,
        "wires": wires,
        "area_um2": table["gb_um2"] + pes * (files * table["rf_um2"] + MAC_UM2),
    }


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
