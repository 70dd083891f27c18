"""Mapspaces: which mappings each dataflow allows for a layer on an array.

A mapspace is data: what is spread over X and Y (`spreads`), which loops may be tiled in the
register file and at DRAM, and the order of the loops at the global buffer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from dance_tf.hardware.loopnest.spreads import RULES, Spreads, divisors, spreads
from dance_tf.structs import LOOPS, Layer

__all__ = [
    "CHANNEL_LOOPS",
    "PLANE_LOOPS",
    "WEIGHT_SPAD_ORDER",
    "Candidates",
    "dram_orders",
    "present_loops",
    "shortage",
    "tile_words",
    "tilings",
]

#: The loops in two parts, tilings of which are listed apart: those over channels, and those
#: over the plane of an image with its batch: output positions and filter taps.
CHANNEL_LOOPS = "KCG"
PLANE_LOOPS = "NPQRS"

#: Loops of the weight file where register files are split, outer to inner. The input
#: file has none; the file of partial sums has the rest.
WEIGHT_SPAD_ORDER = "CSR"

_INDEX = {name: index for index, name in enumerate(LOOPS)}


#: Orders of the DRAM loops, outer to inner, one of each kind of cost. G is relevant to
#: all operands and stays outside. What matters: whether C is innermost (only then do
#: outputs stay), else how long the innermost run of N, P and Q is (weights stay), which
#: of P and Q slides, and whether K lies within (inputs stay). An order that differs in
#: nothing else costs the same, or more than one of these.
_DRAM_ORDERS = (
    "GNQPKC",
    "GCNQPK",
    "GCNPQK",
    "GCNQKP",
    "GCNPKQ",
    "GCKNQP",
    "GCKNPQ",
    "GCNKQP",
    "GCNKPQ",
)

#: Tilings of the plane per chunk: some 100 MB of coefficients.
MAX_TILINGS = 16_384


def dram_orders(layer: Layer, dataflow: str) -> tuple[str, ...]:
    """Return orders of the DRAM loops, outer to inner, among which the best of all orders is.

    Loops that the layer or the dataflow does not have are left out.
    """
    present = present_loops(layer, RULES[dataflow].dram)
    orders = ("".join(n for n in order if n in present) for order in _DRAM_ORDERS)
    return tuple(dict.fromkeys(orders))


def present_loops(layer: Layer, loops: str) -> str:
    """Return those of the loops that layers of this kind have.

    A kind is depthwise, grouped or neither, with or without a batch: few, as the mapper
    traces a function for each.
    """
    bounds = dict(zip(LOOPS, layer.loop_bounds, strict=True))
    is_depthwise = bounds["G"] > 1 and bounds["K"] == bounds["C"] == 1
    absent = {"K", "C"} if is_depthwise else set()
    # A padded loop may be longer than the layer's, but not where the layer has one step.
    absent |= {name for name in "NG" if bounds[name] == 1}
    return "".join(name for name in loops if name not in absent)


def tilings(
    layer: Layer,
    dataflow: str,
    bounds: Sequence[int],
    loops: str,
    *,
    rf_words: int,
    global_buffer_words: int,
    is_split: bool,
) -> np.ndarray:
    """Return all tilings of some loops that fit one PE where all other loops are 1.

    Args:
        layer: The layer.
        dataflow: A key of RULES.
        bounds: Temporal bounds of the loops, in the order of LOOPS.
        loops: Names of LOOPS.
        rf_words: Capacity of the largest register file of interest.
        global_buffer_words: Capacity of the largest global buffer of interest.
        is_split: Whether each operand has a register file of its own.
    Returns:
        Factors in the register file, at the global buffer and at DRAM, int64
        [3, len(loops), n], in a fixed order.
    """
    rule = RULES[dataflow]
    indices = [_INDEX[name] for name in loops]
    options = [
        _three_way_splits(bounds[_INDEX[name]], name in rule.register_file, name in rule.dram)
        for name in loops
    ]
    # Whether a register file holds the tiles depends on the factors there alone, and those are
    # few: each choice of them that fits then takes all splits of what is left.
    in_file = [np.unique(of_loop[0], return_index=True, return_counts=True) for of_loop in options]
    choices = np.indices([len(factors) for factors, _, _ in in_file]).reshape(len(loops), -1)
    extents: list[np.ndarray | int] = [1] * len(LOOPS)
    for index, (factors, _, _), choice in zip(indices, in_file, choices, strict=True):
        extents[index] = factors[choice]
    words = tile_words(layer, extents)
    needed = functools.reduce(np.maximum, words) if is_split else sum(words)
    choices = choices[:, needed <= rf_words]
    firsts, counts = (
        np.stack([part[at][choice] for part, choice in zip(in_file, choices, strict=True)])
        for at in (1, 2)
    )
    num = counts.prod(axis=0)
    of_choice = np.repeat(np.arange(len(num)), num)
    rest = np.arange(len(of_choice)) - np.repeat(np.cumsum(num) - num, num)
    chosen = np.empty((len(loops), len(of_choice)), np.int64)
    for row in reversed(range(len(loops))):
        rest, chosen[row] = np.divmod(rest, counts[row][of_choice])
        chosen[row] += firsts[row][of_choice]
    key = np.ravel_multi_index(tuple(chosen), [of_loop.shape[1] for of_loop in options])
    chosen = chosen[:, np.argsort(key, kind="stable")]
    tiles = np.stack([of_loop[:, row] for of_loop, row in zip(options, chosen, strict=True)], 1)
    for index, of_loop in zip(indices, (tiles[0] * tiles[1]).copy(), strict=True):
        extents[index] = of_loop
    return tiles[:, :, np.asarray(sum(tile_words(layer, extents)) <= global_buffer_words)]


@dataclasses.dataclass(frozen=True)
class Candidates:
    """All mappings of one layer and dataflow, in parts that multiply.

    Tilings are those that fit a single PE: where all PEs together need more than the global
    buffer holds, `SpreadSearch` leaves them out.
    """

    layer: Layer
    dataflow: str
    spreads: Spreads
    orders: tuple[str, ...]
    rf_words: int  # of the largest register file of interest
    global_buffer_words: int  # of the largest buffer of interest
    is_split: bool
    _listed: dict[tuple[str, tuple[int, ...]], np.ndarray] = dataclasses.field(default_factory=dict)

    def tilings(self, row: int, names: str) -> np.ndarray:
        """Return the tilings of some loops in a spread; those of the same bounds are shared."""
        temporal = self.spreads.temporal_bounds[row]
        key = (names, tuple(temporal[[_INDEX[name] for name in names]].tolist()))
        if key not in self._listed:
            self._listed[key] = tilings(
                self.layer,
                self.dataflow,
                temporal.tolist(),
                names,
                rf_words=self.rf_words,
                global_buffer_words=self.global_buffer_words,
                is_split=self.is_split,
            )
        return self._listed[key]

    def chunks(
        self, rows: Iterable[int] | np.ndarray, num_tilings: int = MAX_TILINGS
    ) -> Iterator[list[int]]:
        """Yield rows of spreads that together have few tilings of the plane, or one spread's."""
        chunk: list[int] = []
        num, most = 0, min(num_tilings, MAX_TILINGS)
        for row in rows:
            of_row = self.tilings(row, PLANE_LOOPS).shape[2]
            if chunk and num + of_row > most:
                yield chunk
                chunk, num = [], 0
            chunk.append(int(row))
            num += of_row
        if chunk:
            yield chunk


def shortage(
    layer: Layer,
    dataflow: str,
    pe_x: Sequence[int],
    pe_y: Sequence[int],
    rule: str = "strip",
    *,
    rf_words: int,
    global_buffer_words: int,
    is_split: bool,
) -> str | None:
    """Return which resource is too small for any mapping of a layer, None if none is.

    Tiles are least where every loop that may run outside of them does.

    Args:
        layer: The layer.
        dataflow: A key of RULES.
        pe_x: Sides along X to consider.
        pe_y: Sides along Y.
        rule: One of MAPSPACE_RULES.
        rf_words: Capacity of the largest register file.
        global_buffer_words: Capacity of the global buffer.
        is_split: Whether each operand has a register file of its own.
    """
    allowed = spreads(layer, dataflow, pe_x, pe_y, rule)
    if not len(allowed):
        return f"S = {layer.S} needs as many PEs along Y, there are {max(pe_y)}"
    words = [int(part) for part in tile_words(layer, np.ones(8, np.int64))]
    least = max(words) if is_split else sum(words)
    if least > rf_words:
        return f"the register file holds {rf_words} words, the smallest tiles need {least}"
    held = []
    for spread in allowed:
        factors = zip(LOOPS, spread.x, spread.y, spread.temporal_bounds, strict=True)
        extents = [
            x * y * (1 if name in RULES[dataflow].dram else bound) for name, x, y, bound in factors
        ]
        held.append(sum(int(part) for part in tile_words(layer, np.asarray(extents, np.int64))))
    if min(held) > global_buffer_words:
        return (
            f"the global buffer holds {global_buffer_words} words, the smallest tiles need"
            f" {min(held)}"
        )
    return None


def tile_words(
    layer: Layer, extents: Sequence[np.ndarray | int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the words of the tiles of weights, inputs and outputs, [...], of 8 extents [...].

    Where register files are split by operand, an inner file holds no more than this.
    """
    n, k, c, p, q, r, s, g = extents
    width = (p - 1) * layer.stride[0] + (r - 1) * layer.dilation[0] + 1
    height = (q - 1) * layer.stride[1] + (s - 1) * layer.dilation[1] + 1
    words = (g * k * c * r * s, n * g * c * width * height, n * g * k * p * q)
    weights, inputs, outputs = map(np.asarray, words)
    return weights, inputs, outputs


@functools.lru_cache(maxsize=4096)
def _three_way_splits(bound: int, has_file: bool, has_dram: bool) -> np.ndarray:
    """Return all (register file, global buffer, DRAM) factors of `bound`, [3, n]."""
    splits = [
        (file, bound // file // dram, dram)
        for file in (divisors(bound) if has_file else [1])
        for dram in (divisors(bound // file) if has_dram else [1])
    ]
    return np.asarray(splits, np.int64).T
