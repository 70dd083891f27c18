"""Timeloop's problem file as a layer, whatever it calls its dimensions and data spaces.

What counts are the projections: a dimension that indexes weights and inputs is summed over,
one of weights and outputs counts output channels, one of inputs and outputs positions, one
of all three groups, and two that one axis of the inputs adds up are filter and position.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from dance_tf.errors import UserError
from dance_tf.files import Json
from dance_tf.interop import timeloop as dialect
from dance_tf.interop.yaml_text import parse_yaml
from dance_tf.structs import Layer

__all__ = ["ProblemNames", "problem_names", "read_problem"]

#: Shapes that Timeloop brings, by the name that a problem may give in place of a shape.
_SHIPPED: dict[str, dict[str, Json]] = {
    "cnn-layer": {
        "dimensions": list("RSPQCKN"),
        "coefficients": [
            {"name": name, "default": 1}
            for name in ("Wstride", "Hstride", "Wdilation", "Hdilation")
        ],
        "data-spaces": [
            {"name": "Weights", "projection": ["C", "K", "R", "S"]},
            {
                "name": "Inputs",
                "projection": [
                    [["N"]],
                    [["C"]],
                    [["R", "Wdilation"], ["P", "Wstride"]],
                    [["S", "Hdilation"], ["Q", "Hstride"]],
                ],
            },
            {"name": "Outputs", "projection": ["N", "K", "Q", "P"], "read-write": True},
        ],
    },
    "gemm-abz": {
        "dimensions": list("MNK"),
        "data-spaces": [
            {"name": "A", "projection": ["M", "K"]},
            {"name": "B", "projection": ["N", "K"]},
            {"name": "Z", "projection": ["M", "N"], "read-write": True},
        ],
    },
}

#: Keys of an instance that describe it, and that Timeloop does not read.
_DESCRIBES = ("H", "W", "Hpad", "Wpad", "Padding")

#: Keys beside the bounds where a problem has no `instance`.
_BESIDE = ("instance", "layer", "name", "shape", "version")

#: Operands that a dimension indexes to the loops that it may be, the usual one first.
_ROLES = {
    ("Weights", "Inputs"): ("C",),
    ("Weights", "Outputs"): ("K",),
    ("Inputs", "Outputs"): ("P", "Q", "N"),
    ("Weights", "Inputs", "Outputs"): ("G",),
}

_Axes = list[list[tuple[str, int]]]  # dimension and coefficient of each term of each axis


@dataclasses.dataclass(frozen=True)
class ProblemNames:
    """Names that a problem file gives to dimensions and data spaces."""

    loops: dict[str, str | None]  # its dimension to our loop; None for one of bound 1 without
    operands: dict[str, str]  # its data space to Weights, Inputs or Outputs


def read_problem(text: str, where: str = dialect.PROBLEM, name: str | None = None) -> Layer:
    """Return the layer of a problem file.

    Args:
        text: The YAML: a shape, or the name of one that Timeloop brings (none: cnn-layer), and
            an instance, or its keys beside the shape.
        where: Name of the file, for messages.
        name: Name of the layer; None: `where`.
    Raises:
        UserError: If the file is not a convolution or a product of two matrices; says what
            is wrong.
    """
    return _read(text, where, name)[0]


def problem_names(text: str, where: str = dialect.PROBLEM) -> ProblemNames:
    """Return the names in a problem file, for the mapping of it.

    Raises:
        UserError: If it is no problem that `read_problem` takes.
    """
    return _read(text, where, None)[1]


def _read(text: str, where: str, name: str | None) -> tuple[Layer, ProblemNames]:
    data = parse_yaml(text, where)
    problem = _typed(
        data.get("problem") if isinstance(data, dict) else None, dict, "problem", where
    )
    shape = problem.get("shape", "cnn-layer")
    if isinstance(shape, str):
        stem = shape.removesuffix(".yaml").removesuffix(".cfg").replace("_", "-").lower()
        if stem not in _SHIPPED:
            raise UserError(
                f"{where}: shape {shape!r} is in another file; known by name are"
                f" {', '.join(_SHIPPED)}"
            )
        shape = _SHIPPED[stem]
    shape = _typed(shape, dict, "shape", where)
    if shape.get("flatten"):
        raise UserError(f"{where}: flatten of the shape is not modelled")
    beside = {key: value for key, value in problem.items() if key not in _BESIDE}
    instance = _typed(problem.get("instance", beside), dict, "instance", where)
    dimensions = _typed(shape.get("dimensions"), list, "dimensions", where)
    if not all(isinstance(dim, str) for dim in dimensions) or len(set(dimensions)) < len(
        dimensions
    ):
        raise UserError(f"{where}: dimensions are {dimensions!r}, not names that differ")
    bounds, coefficients = _numbers(instance, dimensions, shape, where)
    axes = _data_spaces(shape, bounds, coefficients, where)
    loops, scale = _loops(axes, bounds, where)
    size = {loop: bounds[dim] for dim, loop in loops.items() if loop is not None}
    # Groups are channels of their own where the shape has no others beside them.
    is_depthwise = "G" in size and not {"C", "K"} & set(size)
    groups = 1 if is_depthwise else size.get("G", 1)
    layer = Layer(
        name=where if name is None else name,
        kind="depthwise" if is_depthwise else "conv",
        K=size["G"] if is_depthwise else size.get("K", 1) * groups,
        C=size.get("C", 1),
        groups=groups,
        stride=(scale.get("P", 1), scale.get("Q", 1)),
        dilation=(scale.get("R", 1), scale.get("S", 1)),
        **{loop: size.get(loop, 1) for loop in "NPQRS"},
    )
    if is_depthwise:
        loops = {dim: "K" if loop == "G" else loop for dim, loop in loops.items()}
    return layer, ProblemNames(loops, {space: operand for operand, (space, _) in axes.items()})


def _typed(value: Json, kind: type, key: str, where: str) -> Json:
    if value is None:
        raise UserError(f"{where}: has no {key}")
    if not isinstance(value, kind):
        raise UserError(f"{where}: {key} is {value!r}, not a {kind.__name__}")
    return value


def _numbers(
    instance: dict[str, Json], dimensions: list[Json], shape: dict[str, Json], where: str
) -> tuple[dict[str, int], dict[str, Json]]:
    """Return the bound of each dimension and the value of each coefficient."""
    given: dict[str, Json] = {}
    for entry in _typed(shape.get("coefficients") or [], list, "coefficients", where):
        if isinstance(entry, dict):
            given[str(entry.get("name"))] = entry.get("default", 1)
    for key, value in instance.items():
        if key in dimensions or key in given:
            if type(value) is not int or value < 1:
                raise UserError(f"{where}: {key} is {value!r}, not a positive integer")
            if key in given:
                given[key] = value
        elif key in ("densities", "commonDensity"):
            if not _is_dense(value):
                raise UserError(f"{where}: {key!r} of the instance is not modelled: all is dense")
        elif key not in _DESCRIBES and not (type(value) is int and value == 1):
            # A 1 changes nothing, be it groups, a stride or a dimension.
            raise UserError(f"{where}: {key!r} of the instance is not modelled")
    missing = [dim for dim in dimensions if dim not in instance]
    if missing:
        raise UserError(f"{where}: {', '.join(missing)} missing from the instance")
    return {dim: instance[dim] for dim in dimensions}, given


def _is_dense(value: Json) -> bool:
    """Say whether densities are all 1."""
    if isinstance(value, dict):
        return all(_is_dense(v) for key, v in value.items() if key != "distribution")
    return isinstance(value, int | float) and value == 1


def _data_spaces(
    shape: dict[str, Json], bounds: dict[str, int], coefficients: dict[str, Json], where: str
) -> dict[str, tuple[str, _Axes]]:
    """Return operand to the name of its data space and its axes."""
    spaces = shape.get("data-spaces", shape.get("data_spaces"))
    read: dict[str, _Axes] = {}
    written = []
    for space in _typed(spaces, list, "data-spaces", where):
        if not isinstance(space, dict):
            raise UserError(f"{where}: data space {space!r} is not an object")
        own = str(space.get("name"))
        read[own] = _axes(space.get("projection"), own, bounds, coefficients, where)
        if space.get("read-write", space.get("read_write", False)) is True:
            written.append(own)
    if len(read) != 3 or len(written) != 1:
        raise UserError(
            f"{where}: has {len(read)} data spaces, read-write {', '.join(written) or 'none'};"
            " modelled are three, one of them read-write"
        )
    first, second = (own for own in read if own not in written)
    # Inputs are where a filter slides; of two matrices alike, as in x @ weights, the first.
    is_second = second == "Inputs" or any(len(axis) > 1 for axis in read[second])
    if first == "Weights" or (is_second and first != "Inputs"):
        first, second = second, first
    names = {"Weights": second, "Inputs": first, "Outputs": written[0]}
    return {operand: (own, read[own]) for operand, own in names.items()}


def _axes(
    axes: Json, space: str, bounds: dict[str, int], coefficients: dict[str, Json], where: str
) -> _Axes:
    """Return the terms of each axis of a projection, which may be a list of dimensions alone."""
    if isinstance(axes, list) and axes and all(isinstance(axis, str) for axis in axes):
        axes = [[[axis]] for axis in axes]
    found: _Axes = []
    for axis in _typed(axes, list, f"projection of {space}", where):
        terms = []
        for term in axis if isinstance(axis, list) else [axis]:
            is_term = isinstance(term, list) and 1 <= len(term) <= 2
            if not is_term or not isinstance(term[0], str) or term[0] not in bounds:
                raise UserError(f"{where}: projection of {space} has {term!r}")
            value = coefficients.get(str(term[1])) if len(term) == 2 else 1
            if type(value) is not int or value < 1:
                raise UserError(f"{where}: coefficient {term[1]!r} is {value!r}")
            terms.append((term[0], value))
        found.append(terms)
    taken = [dim for terms in found for dim, _ in terms]
    if len(set(taken)) < len(taken):
        raise UserError(f"{where}: projection of {space} has a dimension twice")
    return found


def _loops(
    axes: dict[str, tuple[str, _Axes]], bounds: dict[str, int], where: str
) -> tuple[dict[str, str | None], dict[str, int]]:
    """Return dimension to our loop, and the coefficients of P, Q, R and S."""
    indexes = {
        dim: tuple(
            operand
            for operand, (_, own) in axes.items()
            if any(dim == term for axis in own for term, _ in axis)
        )
        for dim in bounds
    }
    loops: dict[str, str | None] = {}
    for axis in axes["Inputs"][1]:
        if len(axis) > 1:
            _place_pair([dim for dim, _ in axis], indexes, loops, where)
    alone = [dim for dim in bounds if dim not in loops]
    # Dimensions with a name of ours take it first; those of bound 1 may go without.
    own_name = {dim: "K" if dim == "M" else dim for dim in alone}
    for dim in sorted(
        alone, key=lambda d: (own_name[d] not in _ROLES.get(indexes[d], ()), bounds[d] == 1)
    ):
        free = [loop for loop in _ROLES.get(indexes[dim], ()) if loop not in loops.values()]
        if not free and bounds[dim] > 1:
            _refuse(dim, indexes[dim], where)
        loops[dim] = own_name[dim] if own_name[dim] in free else next(iter(free), None)
    scale = {}
    for operand, (space, own) in axes.items():
        for dim, value in (term for axis in own for term in axis):
            loop = loops[dim]
            if operand == "Inputs" and loop in ("P", "Q", "R", "S"):
                scale[loop] = value
            elif value != 1:
                raise UserError(f"{where}: {space} has {dim} times {value}")
    return loops, scale


def _place_pair(
    axis: list[str], indexes: dict[str, tuple[str, ...]], loops: dict[str, str | None], where: str
) -> None:
    """Give filter and position of one axis that slides their loops, of width or of height."""
    filters = [dim for dim in axis if indexes[dim] == ("Weights", "Inputs")]
    positions = [dim for dim in axis if indexes[dim] == ("Inputs", "Outputs")]
    if len(axis) != 2 or len(filters) != 1 or len(positions) != 1:
        raise UserError(
            f"{where}: an axis of the inputs adds up {', '.join(axis)}: not a filter and a position"
        )
    free = [pair for pair in (("R", "P"), ("S", "Q")) if pair[0] not in loops.values()]
    if not free:
        raise UserError(f"{where}: a filter slides along more than width and height")
    named = [pair for pair in free if set(pair) & set(axis)]
    loops[filters[0]], loops[positions[0]] = (named or free)[0]


def _refuse(dim: str, operands: Iterable[str], where: str) -> None:
    raise UserError(
        f"{where}: dimension {dim} indexes {', '.join(operands) or 'nothing'}, which the"
        " dimensions of a convolution do not, or another one does already"
    )
