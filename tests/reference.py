"""Slow, plain-Python twins of the cost model, written from the contract alone.

Nothing here imports the product. Layers, accelerators and mappings are the plain
data of a reference case (a dict, a dict and a list of levels), so that each twin
can be held against real runs before the product is held against the twin.

* `walk_counts` steps through the temporal loops one by one with the box in hand.
* `closed_counts` is the formula per loop, for mappings too long to walk.
* `extrapolated_counts` is what Timeloop makes of it: iterations 0 and 1 of each loop.
* `reference_words.word_counts` holds every word in a set, without boxes.
* `reference_mappings.mappings` lists every mapping that a rule allows.

A grouped layer has `groups`; its K counts the output channels of all groups, its C the
input channels of one. It has loops over K and C of one group and over G, the groups. A
depthwise layer has loops over K, which indexes its inputs too.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

DIMENSIONS = "NKCPQRS"
LOOPS = DIMENSIONS + "G"
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


def loop_bounds(layer: dict) -> dict[str, int]:
    """Return the bound of every loop: K of one group, and G."""
    groups = layer.get("groups", 1)
    return {d: layer[d] for d in DIMENSIONS} | {"K": layer["K"] // groups, "G": groups}


def axes(layer: dict, operand: str) -> dict[str, tuple[int, int]]:
    """Return the loops that index an operand: which coordinate each moves, and by how much."""
    if operand == "weights":
        return {d: (axis, 1) for axis, d in enumerate("GKCRS")}
    if operand == "outputs":
        return {d: (axis, 1) for axis, d in enumerate("NGKPQ")}
    (stride_w, stride_h), (dilation_w, dilation_h) = pair(layer["stride"]), pair(layer["dilation"])
    return {
        "N": (0, 1),
        "G": (1, 1),
        "K" if layer["type"] == "depthwise" else "C": (2, 1),
        "P": (3, stride_w),
        "R": (3, dilation_w),
        "Q": (4, stride_h),
        "S": (4, dilation_h),
    }


def coordinates(layer: dict, operand: str, index: dict[str, int]) -> list[int]:
    """Return where in its operand the element of a loop index lies."""
    place = [0] * 5
    for d, (axis, scale) in axes(layer, operand).items():
        place[axis] += scale * index.get(d, 0)
    return place


def box_of(layer: dict, operand: str, bounds: dict[str, int]) -> list[int]:
    """Return the sides of the bounding box of loops 0..bound-1."""
    last = coordinates(layer, operand, {d: bound - 1 for d, bound in bounds.items()})
    return [side + 1 for side in last]


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
        left = loop_bounds(layer)
        self.steps = []  # by how much each loop advances its dimension
        for dim, bound, _, _ in self.loops:
            assert left[dim] % bound == 0, dim
            left[dim] //= bound
            self.steps.append(left[dim])
        assert set(left.values()) == {1}, left

    def moves(self, operand: str, loops: list[int]) -> list[list[int]]:
        """Return by how much one step of each loop moves an operand's box."""
        used = axes(self.layer, operand)
        found = []
        for i in loops:
            axis, scale = used.get(self.loops[i][0], (0, 0))
            found.append([0] * 5)
            found[-1][axis] = scale * self.steps[i]
        return found

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

    def box(self, operand: str, level: int) -> list[int]:
        """Return the box that one instance of a level holds."""
        bounds = dict.fromkeys(LOOPS, 1)
        for dim, bound, _, at in self.loops:
            if at >= level:
                bounds[dim] *= bound
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
    moves = nest.moves(operand, outside)
    box = nest.box(operand, level)
    fills, direction, held, seen = math.prod(box), None, None, set()
    for iterations in itertools.product(*(range(nest.loops[i][1]) for i in outside)):
        corner = tuple(_sum_of(moves, iterations))
        if held is not None:
            jump = [new - old for new, old in zip(corner, held, strict=True)]
            words, direction = rule(jump, box, direction)
            fills += words
        held = corner
        seen.add(corner)
    return fills, len(seen) * math.prod(box)


def _sum_of(moves: list[list[int]], iterations) -> list[int]:
    corner = [0] * 5
    for move, iteration in zip(moves, iterations, strict=True):
        corner = [c + iteration * m for c, m in zip(corner, move, strict=True)]
    return corner


def closed_fills(
    nest: Nest, operand: str, level: int, last_iteration=lambda bound: bound - 1
) -> tuple[int, int]:
    """Return the same as `walk_fills` by the formula per loop."""
    outside = nest.outside(level)
    moves = nest.moves(operand, outside)
    box = nest.box(operand, level)
    fills, direction = math.prod(box), None
    wrapped = [0] * 5  # what all loops inside have moved by their last iteration
    steps_outside = math.prod(nest.loops[i][1] for i in outside)
    for i, move in reversed(list(zip(outside, moves, strict=True))):
        bound = nest.loops[i][1]
        steps_outside //= bound
        words, heading = rule([a - b for a, b in zip(move, wrapped, strict=True)], box, direction)
        if i == outside[-1]:
            direction = heading  # what every outer step finds remembered
        fills += steps_outside * (bound - 1) * words
        wrapped = [w + last_iteration(bound) * m for w, m in zip(wrapped, move, strict=True)]
    dims = axes(nest.layer, operand)
    tiles = math.prod(nest.loops[i][1] for i in outside if nest.loops[i][0] in dims)
    return fills, tiles * math.prod(box)  # distinct only for outputs, whose boxes are disjoint


def extrapolated_fills(nest: Nest, operand: str, level: int) -> tuple[int, int]:
    """Return what Timeloop counts: it goes on outside from iteration 1 of every loop."""
    return closed_fills(nest, operand, level, last_iteration=lambda bound: 1)


def _counts(layer: dict, mapping: list[dict], accounting: str, fills_of) -> dict:
    """Return counts[level][operand] of reads, fills, updates and tile words."""
    nest = Nest(layer, mapping)
    macs = macs_of(layer)
    pes = list(itertools.product(*(range(b) for _, b in nest.spatial())))
    charges_first = accounting == "timeloop_2020"
    counts = {level["level"]: {} for level in mapping}
    for operand in OPERANDS:
        used = axes(layer, operand)
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
        dram = counts["dram"][operand] = {
            "reads": gb_fills,
            "fills": 0,
            "updates": 0,
            "tile_words": math.prod(nest.box(operand, 0)),
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


def extrapolated_counts(
    layer: dict, mapping: list[dict], accounting: str = "timeloop_2020"
) -> dict:
    """Return the access counts that Timeloop reports."""
    return _counts(layer, mapping, accounting, extrapolated_fills)


# --- cost ------------------------------------------------------------------------------


def hops(sharing: int, fanout: int) -> float:
    """Return PE pitches travelled by one word that reaches `sharing` of `fanout` PEs."""
    m, n = sharing, fanout
    return math.sqrt(n * m) + (math.sqrt(n) - math.sqrt(m)) / 2 - math.sqrt(n / m) + 0.5


def word_hops(layer: dict, mapping: list[dict], dataflow: str, counts: dict) -> dict[str, float]:
    """Return words x PE pitches travelled between global buffer and PEs, per operand."""
    nest = Nest(layer, mapping)
    hops_of = {}
    for operand in OPERANDS:
        used = axes(layer, operand)

        def fan(kinds, used=used):
            loops = nest.spatial(kinds)
            shared = math.prod(b for d, b in loops if d not in used)
            return shared, math.prod(b for _, b in loops)

        access = counts["global_buffer"][operand]
        transfers = access["updates"] if operand == "outputs" else access["reads"]
        if dataflow == "row_stationary":
            (m_x, n_x), (m_y, n_y) = fan(["spatial_x"]), fan(["spatial_y"])
            hops_of[operand] = transfers * hops(m_x, n_x) + transfers * m_x * hops(m_y, n_y)
        else:
            hops_of[operand] = transfers * hops(*fan(["spatial_x", "spatial_y"]))
    return hops_of


def tally(layer: dict, mapping: list[dict], dataflow: str, counts: dict) -> dict:
    """Return all that a cost needs to know of a mapping with these counts."""
    total = {
        level: {k: sum(a[k] for a in of.values()) for k in ("reads", "fills", "updates")}
        for level, of in counts.items()
    }
    buffer, dram = total.pop("global_buffer"), total.pop("dram")
    return {
        "macs": macs_of(layer),
        "compute_cycles": math.prod(
            b for _, b, kind, _ in Nest(layer, mapping).loops if kind == "temporal"
        ),
        "rf_accesses": sum(sum(t.values()) for t in total.values()),
        "buffer_reads": buffer["reads"],
        "buffer_writes": buffer["fills"] + buffer["updates"],
        "dram": dram["reads"] + dram["updates"],
        "hops": word_hops(layer, mapping, dataflow, counts),
    }


def cost_of(
    tally: dict,
    accelerator: dict,
    *,
    technology_name: str = "cacti_45nm",
    accounting: str = "timeloop_2020",
    dram_words_per_cycle: float | None = 6.4,
    buffer_words_per_cycle: float = 16,
    word_bits: int = 16,
) -> dict:
    """Return cycles, energy by component and area of a mapping on an accelerator."""
    table = technology(technology_name, accelerator["rf_words"], accounting)
    words_per_cycle = Fraction(str(buffer_words_per_cycle))
    cycles = {
        "compute": tally["compute_cycles"],
        "global_buffer_reads": math.ceil(tally["buffer_reads"] / words_per_cycle),
        "global_buffer_writes": math.ceil(tally["buffer_writes"] / words_per_cycle),
    }
    if dram_words_per_cycle is not None:
        cycles["dram"] = math.ceil(tally["dram"] / Fraction(str(dram_words_per_cycle)))
    pj_per_hop = word_bits * table["pitch_mm"]
    wires = {operand: 0.3254 * pj_per_hop * hops for operand, hops in tally["hops"].items()}
    energy = {
        "mac": MAC_PJ * tally["macs"],
        "register_file": RF_PJ[accelerator["rf_words"]] * tally["rf_accesses"],
        "global_buffer": table["gb_read_pj"] * tally["buffer_reads"]
        + table["gb_write_pj"] * tally["buffer_writes"],
        "dram": DRAM_PJ * tally["dram"],
        "wires": table["wire_pj"] * pj_per_hop * sum(tally["hops"].values()),
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


def cost(layer: dict, mapping: list[dict], accelerator: dict, counts: dict, **machine) -> dict:
    """Return cycles, energy by component and area of a mapping with these counts."""
    return cost_of(tally(layer, mapping, accelerator["dataflow"], counts), accelerator, **machine)
