"""Loop-nest analysis: how many words enter each buffer.

Every buffer instance holds one tile (a bounding box) per operand. The loops outside
the instance move the box; what each move brings in is a fill. Bounds, strides and
groups are data; loop orders may be data too (any mappings together), or known when the
function is traced (a mapspace), which leaves a fraction of the operations. Bounds of
channel loops may be variables of a `Polynomial`. One set of formulas serves all.

Source: the analysis of Timeloop (Parashar et al., 2019) as its runs show it; where
Timeloop lets the second iteration of a loop stand for the rest, we count what
walking the loops counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import tensorflow as tf

__all__ = [
    "OPERANDS",
    "Extents",
    "Fills",
    "LoopNests",
    "Polynomial",
    "Slot",
    "Values",
    "add_up",
    "box_words",
    "fills_of_orders",
    "product",
    "where",
]

#: Tensors or arrays that broadcast to the shape of M mappings, or a `Polynomial` of such.
Values: TypeAlias = tf.Tensor

#: Whether something holds: a Python bool where the loop order is known, else bool tensors.
_Condition: TypeAlias = bool | tf.Tensor

_Monomial = frozenset[str]


class Polynomial:
    """A sum of coefficient x product of distinct variables.

    Attributes:
        terms: Coefficient of each set of variables; arrays that broadcast.
        is_live: Whether the bound that a single variable stands for is above 1; else None.
    """

    def __init__(self, terms: Mapping[_Monomial, Values], is_live: tf.Tensor | None = None) -> None:
        self.terms = dict(terms)
        self.is_live = is_live

    @classmethod
    def variable(cls, name: str, is_live: tf.Tensor | None = None) -> Polynomial:
        """Return the variable of a name."""
        return cls({frozenset([name]): 1.0}, is_live)

    def __add__(self, other: Values) -> Polynomial:
        return Polynomial(add_up([*self.terms.items(), *_terms(other)]))

    def __neg__(self) -> Polynomial:
        return self * -1.0

    def __sub__(self, other: Values) -> Polynomial:
        return self + (-other)

    def __rsub__(self, other: Values) -> Polynomial:
        return -self + other

    def __mul__(self, other: Values) -> Polynomial:
        products = []
        for left, a in self.terms.items():
            for right, b in _terms(other):
                if left & right:
                    raise ValueError(f"the square of {', '.join(left & right)} is not multilinear")
                products.append((left | right, _times(a, b)))
        return Polynomial(add_up(products))

    def __truediv__(self, other: Values) -> Polynomial:
        return Polynomial({monomial: a / other for monomial, a in self.terms.items()})

    def __gt__(self, other: Values) -> Values:
        """Compare the bound of a loop with 1: whether the loop is there."""
        if self.is_live is None or other != 1:
            raise ValueError("only the bound of a loop can be compared, and with 1")
        return self.is_live

    __radd__, __rmul__ = __add__, __mul__
    # An array on the left leaves the operation to the polynomial.
    __array_ufunc__ = None


def add_up(terms: Iterable[tuple[_Monomial, Values]]) -> dict[_Monomial, Values]:
    """Return the terms with the coefficients of each monomial added."""
    sums: dict[_Monomial, Values] = {}
    for monomial, coefficient in terms:
        sums[monomial] = sums[monomial] + coefficient if monomial in sums else coefficient
    return sums


def where(condition: tf.Tensor, a: Values, b: Values) -> Values:
    """Return `a` where the condition holds and `b` elsewhere, arrays or polynomials."""
    if not isinstance(a, Polynomial) and not isinstance(b, Polynomial):
        return tf.where(condition, a, b)
    left, right = dict(_terms(a)), dict(_terms(b))
    return Polynomial(
        {
            monomial: tf.where(condition, left.get(monomial, 0.0), right.get(monomial, 0.0))
            for monomial in [*left, *(m for m in right if m not in left)]
        }
    )


def _terms(value: Values) -> Iterable[tuple[_Monomial, Values]]:
    if isinstance(value, Polynomial):
        return value.terms.items()
    return [(frozenset(), value)]


def _times(a: Values, b: Values) -> Values:
    if isinstance(a, float) and a == 1.0:
        return b
    if isinstance(b, float) and b == 1.0:
        return a
    return a * b


#: The order of every axis of length 3 that holds operands.
OPERANDS = ("weights", "inputs", "outputs")

_N, _K, _C, _P, _Q, _R, _S, _G = range(8)
_WEIGHT_DIMS, _OUTPUT_DIMS = (_K, _C, _R, _S, _G), (_N, _K, _P, _Q, _G)


#: A loop of a level: index into LOOPS, and bound. The index is a Python int where the loop
#: order is known, else an int array.
Slot: TypeAlias = tuple[int | tf.Tensor, Values]


class LoopNests(NamedTuple):
    """M mappings that share what is known of their loops, as lists of arrays.

    Slots are listed outer to inner. Arrays broadcast to the shape of M, which may have
    several axes; bounds of channel loops may be polynomials.
    """

    dram: Sequence[Slot]
    global_buffer: Sequence[Slot]
    inner: Sequence[Values]  # 8 factors of the innermost register file, in the order of LOOPS
    spatial_x: Sequence[Values]
    spatial_y: Sequence[Values]
    stride: Sequence[Values]  # width, height
    dilation: Sequence[Values]
    input_spad: Sequence[Slot] = ()  # of a split register file
    weight_spad: Sequence[Slot] = ()


class Fills(NamedTuple):
    """Words that enter the buffers, first boxes included, of M mappings.

    Of one register file; then of the global buffer. "First" are boxes of outputs that
    have not been there before.
    """

    weights: Values
    inputs: Values
    outputs: Values
    first_outputs: Values
    buffer_weights: Values
    buffer_inputs: Values
    buffer_outputs: Values
    first_buffer_outputs: Values


class Extents(NamedTuple):
    """Range of each loop that the loops inside a level touch, lists of 8."""

    weights_file: list[Values]
    inputs_file: list[Values]
    outputs_file: list[Values]
    buffer: list[Values]
    dram: list[Values]


def fills_of_orders(
    nests: LoopNests, orders: Sequence[Sequence[int]]
) -> tuple[list[Fills], Extents]:
    """Count the fills of every buffer for several orders of the DRAM loops.

    Loops are scanned from inner to outer: each step of a loop brings in what its jump
    uncovers, and each loop repeats everything inside it. The jump is the loop's own step
    minus what all loops inside it have moved by their last iteration. Orders that begin
    alike inside share the work.

    Args:
        nests: The mappings.
        orders: Orders of `nests.dram`, each outer to inner.
    Returns:
        Fills of each order, and the extents of every level.
    """
    scan = _Scan(nests)
    outputs_file = list(nests.inner)
    outputs: Values = scan.still(_OUTPUT_DIMS)
    weights_file, (outputs,) = scan.level(outputs_file, nests.weight_spad, (outputs,))
    weights: Values = scan.still(_WEIGHT_DIMS)
    inputs_file, (weights, outputs) = scan.level(weights_file, nests.input_spad, (weights, outputs))
    inputs: Values = scan.window(inputs_file)
    in_array = [
        e * x * y for e, x, y in zip(inputs_file, nests.spatial_x, nests.spatial_y, strict=True)
    ]
    buffer, files = scan.level(in_array, nests.global_buffer, (weights, inputs, outputs))
    at_start = (*files, scan.still(_WEIGHT_DIMS), scan.window(buffer), scan.still(_OUTPUT_DIMS))
    scanned: dict[tuple[int, ...], tuple[list[Values], tuple[_Box, ...]]] = {(): (buffer, at_start)}
    for order in orders:
        inside: tuple[int, ...] = ()
        for index in reversed(order):
            extents, states = scanned[inside]
            inside += (index,)
            if inside not in scanned:
                scanned[inside] = scan.level(extents, [nests.dram[index]], states)
    dram = scanned[tuple(reversed(orders[0]))][0]

    all_outputs = box_words("outputs", dram, nests)
    tiles = [
        box_words("weights", weights_file, nests),
        box_words("outputs", outputs_file, nests),
        box_words("weights", buffer, nests),
        box_words("outputs", buffer, nests),
    ]
    # Outputs that different PEs hold at a time; each PE visits its share of all.
    at_once = product([nests.spatial_x[d] * nests.spatial_y[d] for d in _OUTPUT_DIMS])
    result = []
    for order in orders:
        states = scanned[tuple(reversed(order))][1]
        counts = [box.count for box in states if isinstance(box, _Visits)]
        windows = [box.fills for box in states if isinstance(box, _Window)]
        result.append(
            Fills(
                weights=tiles[0] * counts[0],
                inputs=windows[0],
                outputs=tiles[1] * counts[1],
                first_outputs=all_outputs / at_once,
                buffer_weights=tiles[2] * counts[2],
                buffer_inputs=windows[1],
                buffer_outputs=tiles[3] * counts[3],
                first_buffer_outputs=all_outputs,
            )
        )
    return result, Extents(weights_file, inputs_file, outputs_file, buffer, dram)


def box_words(operand: str, extents: Sequence[Values], nests: LoopNests) -> Values:
    """Return the words of an operand's bounding box."""
    if operand == "weights":
        return product([extents[d] for d in _WEIGHT_DIMS])
    if operand == "outputs":
        return product([extents[d] for d in _OUTPUT_DIMS])
    width, height = _input_sides(extents, nests)
    return extents[_N] * extents[_C] * extents[_G] * (width * height)


# Conditions are Python bools where the loop order is known, and arrays elsewhere.


def _either(a: _Condition, b: _Condition) -> _Condition:
    if isinstance(a, bool):
        return True if a else b
    if isinstance(b, bool):
        return True if b else a
    return a | b


def _both(a: _Condition, b: _Condition) -> _Condition:
    if isinstance(a, bool):
        return b if a else False
    if isinstance(b, bool):
        return a if b else False
    return a & b


def _select(condition: _Condition, a: Values, b: Values) -> Values:
    if isinstance(condition, bool):
        return a if condition else b
    return where(condition, a, b)


class _Visits(NamedTuple):
    """Number of loads of a box without halos; loops inside which it stays are free."""

    dims: tuple[int, ...]  # loops that move it
    count: Values
    is_moved: _Condition


class _Window(NamedTuple):
    """A box of inputs on its way through the loops, inner to outer.

    Width and height may slide: then only the new part is filled, if no other direction
    is remembered from the innermost loop. Everything else fills the box.
    """

    width: Values
    height: Values
    channels: Values  # and images: the box holds width x height words of each
    fills: Values
    moved_width: Values  # by the last iteration of all loops inside
    moved_height: Values
    is_moved_elsewhere: _Condition  # to other channels or images
    is_innermost: _Condition
    remembered: Values  # +-1: a slide along the width, +-2: along the height, 0: none


_Box: TypeAlias = _Visits | _Window


class _Scan:
    """Effect of a loop on the boxes inside it."""

    def __init__(self, nests: LoopNests) -> None:
        self._nests = nests
        self._one = tf.ones_like(nests.stride[0])
        self._zero = tf.zeros_like(nests.stride[0])

    def still(self, dims: tuple[int, ...]) -> _Visits:
        """Return a box without halos that is there once."""
        return _Visits(dims, self._one, False)

    def window(self, extents: list[Values]) -> _Window:
        """Return a box of inputs that is there once."""
        zero = self._zero
        width, height = _input_sides(extents, self._nests)
        channels = extents[_N] * extents[_C] * extents[_G]
        fills = channels * (width * height)
        return _Window(width, height, channels, fills, zero, zero, False, True, zero)

    def level(
        self, extents: list[Values], slots: Sequence[Slot], states: tuple[_Box, ...]
    ) -> tuple[list[Values], tuple[_Box, ...]]:
        """Return extents and boxes after the loops of `slots`."""
        for dim, bound in reversed(slots):
            is_dim = [
                bool(dim == code) if isinstance(dim, int) else tf.equal(dim, code)
                for code in range(8)
            ]
            states = tuple(
                self._visit(state, is_dim, bound)
                if isinstance(state, _Visits)
                else self._slide(state, is_dim, bound, extents)
                for state in states
            )
            extents = [_select(is_dim[d], e * bound, e) for d, e in enumerate(extents)]
        return extents, states

    @staticmethod
    def _visit(box: _Visits, is_dim: list[_Condition], bound: Values) -> _Visits:
        is_relevant: _Condition = False
        for dim in box.dims:
            is_relevant = _either(is_relevant, is_dim[dim])
        repeats = _either(is_relevant, box.is_moved)
        return box._replace(
            count=_select(repeats, box.count * bound, box.count),
            is_moved=_either(box.is_moved, _both(is_relevant, bound > 1)),
        )

    def _slide(
        self, box: _Window, is_dim: list[_Condition], bound: Values, extents: list[Values]
    ) -> _Window:
        """Return the window after a loop: b times what was filled, less what its steps keep."""
        zero = self._zero
        is_live = bound > 1
        is_elsewhere = _either(is_dim[_N], _either(is_dim[_C], is_dim[_G]))
        is_moved_elsewhere = _either(box.is_moved_elsewhere, _both(is_elsewhere, is_live))
        if is_elsewhere is True:
            # Every step fills the box, and nothing slides any more. Counting the loop among
            # the channels is right where it is dead, and elsewhere nothing is kept.
            return box._replace(
                channels=box.channels * bound,
                fills=box.fills * bound,
                is_moved_elsewhere=is_moved_elsewhere,
                is_innermost=_both(box.is_innermost, ~is_live),
            )
        step_width = self._step(is_dim, extents, 0)
        step_height = self._step(is_dim, extents, 1)
        jump_width, jump_height = step_width - box.moved_width, step_height - box.moved_height
        still_width, still_height = tf.equal(jump_width, 0), tf.equal(jump_height, 0)
        along_width, along_height = tf.sign(jump_width), 2 * tf.sign(jump_height)
        is_free = tf.equal(box.remembered, 0)
        slides_width = (still_height & (tf.abs(jump_width) < box.width)) & (
            is_free | tf.equal(box.remembered, along_width)
        )
        slides_height = (still_width & (tf.abs(jump_height) < box.height)) & (
            is_free | tf.equal(box.remembered, along_height)
        )
        # Where both stand still, a slide of 0 keeps all, and no direction.
        kept_width = box.height * (box.width - tf.abs(jump_width))
        kept_height = box.width * (box.height - tf.abs(jump_height))
        kept = tf.where(slides_width, kept_width, tf.where(slides_height, kept_height, zero))
        kept = tf.where(still_width & still_height, box.width * box.height, kept)
        direction = tf.where(slides_width, along_width, tf.where(slides_height, along_height, zero))
        direction = _select(is_moved_elsewhere, zero, direction)
        kept = _select(is_moved_elsewhere, zero, kept)
        # A dead loop (bound 1) changes nothing: its steps are multiplied by 0.
        return box._replace(
            fills=box.fills * bound - (bound - 1) * (box.channels * kept),
            moved_width=self._moved(box.moved_width, bound, step_width),
            moved_height=self._moved(box.moved_height, bound, step_height),
            is_moved_elsewhere=is_moved_elsewhere,
            is_innermost=_both(box.is_innermost, ~is_live),
            remembered=_select(_both(is_live, box.is_innermost), direction, box.remembered),
        )

    def _moved(self, moved: Values, bound: Values, step: Values) -> Values:
        # A loop that is known to move nothing may have a bound that is not known.
        return moved if step is self._zero else moved + (bound - 1) * step

    def _step(self, is_dim: list[_Condition], extents: list[Values], axis: int) -> Values:
        """Return how far one step of a loop moves the window along an axis."""
        out, tap = ((_P, _R), (_Q, _S))[axis]
        stride, dilation = self._nests.stride[axis], self._nests.dilation[axis]
        moved_by_tap = _select(is_dim[tap], extents[tap] * dilation, self._zero)
        return _select(is_dim[out], extents[out] * stride, moved_by_tap)


def _input_sides(extents: Sequence[Values], nests: LoopNests) -> tuple[Values, Values]:
    sides = []
    for axis, (out, tap) in enumerate(((_P, _R), (_Q, _S))):
        span = (extents[out] - 1) * nests.stride[axis]
        sides.append(span + (extents[tap] - 1) * nests.dilation[axis] + 1)
    return sides[0], sides[1]


def product(factors: Sequence[Values]) -> Values:
    """Return the product of at least one array or polynomial."""
    result = factors[0]
    for factor in factors[1:]:
        result = result * factor
    return result
