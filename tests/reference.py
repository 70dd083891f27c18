"""Slow, plain-Python twins of the cost model, written from the contract alone.

Nothing here imports the product. Layers, accelerators and mappings are the plain
data of a reference case (a dict, a dict and a list of levels), so that each twin
can be held against real runs before the product is held against the twin.

* `walk_counts` steps through the temporal loops one by one with the box in hand.
* `closed_counts` is the formula per loop, for mappings too long to walk.
* `reference_mappings.strip_mappings` lists every mapping that the three dataflows allow.
"""

from __future__ import annotations

import itertools
import math
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
