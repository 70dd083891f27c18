"""Timeloop's architecture, problem and mapping files as our records.

What the cost model does not know (other shapes of problems, bypassed buffers, imperfect
factors, double buffering) is refused with one line, never passed over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dance_tf.errors import UserError, did_you_mean
from dance_tf.hardware.mapping import Level, Mapping
from dance_tf.interop import timeloop as dialect
from dance_tf.interop.fit import check_fits
from dance_tf.interop.timeloop_architecture import TimeloopArchitecture
from dance_tf.interop.yaml_text import parse_yaml
from dance_tf.structs import LOOPS, Layer

__all__ = ["read_mapping", "read_problem"]

_COEFFICIENTS = {"P": "stride", "Q": "stride", "R": "dilation", "S": "dilation"}


def read_problem(text: str, where: str = dialect.PROBLEM, name: str | None = None) -> Layer:
    """Return the layer of a problem file.

    What counts are the projections, not the shape's name. Output channels may be called M
    or K. Groups are a dimension G that indexes all three operands.

    Args:
        text: The YAML.
        where: Name of the file, for messages.
        name: Name of the layer; None: `where`.
    Raises:
        UserError: If the file is not such a problem; says what is wrong.
    """
    problem = _entry(parse_yaml(text, where), "problem", dict, where)
    instance = _entry(problem, "instance", dict, where)
    shape = _entry(problem, "shape", dict, where)
    dimensions = tuple(_entry(shape, "dimensions", list, where))
    ours = tuple("M" if dim == "K" else dim for dim in dimensions)
    if sorted(map(str, ours)) not in [sorted(dims) for dims in dialect.SHAPES.values()]:
        known = "; ".join(" ".join(dims) for dims in dialect.SHAPES.values())
        raise UserError(
            f"{where}: dimensions {' '.join(map(str, dimensions))} are not those of a convolution:"
            f" {known}"
        )
    given = {
        str(c.get("name")): c.get("default", 1)
        for c in _entry({"coefficients": []} | shape, "coefficients", list, where)
        if isinstance(c, dict)
    }
    for key, value in instance.items():
        if key not in dimensions and key not in given:
            raise UserError(f"{where}: {key!r} of the instance is not modelled")
        if type(value) is not int or value < 1:
            raise UserError(f"{where}: {key} is {value!r}, not a positive integer")
        if key in given:
            given[key] = value
    missing = [dim for dim in dimensions if dim not in instance]
    if missing:
        raise UserError(f"{where}: {', '.join(missing)} missing from the instance")
    scale = _check_projections(shape, ours, given, where)
    size = {dim: instance[own] for dim, own in zip(ours, dimensions, strict=True)}
    groups = size.get("G", 1)
    return Layer(
        name=where if name is None else name,
        kind="conv" if "C" in size else "depthwise",
        K=size["M"] * groups,
        C=size.get("C", 1),
        groups=groups,
        stride=(scale["P"], scale["Q"]),
        dilation=(scale["R"], scale["S"]),
        **{dim: size[dim] for dim in "NPQRS"},
    )


def _check_projections(
    shape: dict[str, Any], dimensions: tuple[str, ...], given: dict[str, Any], where: str
) -> dict[str, int]:
    """Return the coefficients of P, Q, R and S, the operands being those of a convolution."""
    spaces = shape.get("data-spaces", shape.get("data_spaces"))
    expected = dialect.projections(dimensions)
    scale = dict.fromkeys("PQRS", 1)
    found = {}
    for space in spaces if isinstance(spaces, list) else []:
        if not isinstance(space, dict):
            raise UserError(f"{where}: data space {space!r} is not an object")
        operand, axes = str(space.get("name")), space.get("projection")
        if operand not in expected:
            raise UserError(f"{where}: data space {operand!r} is not one of Weights Inputs Outputs")
        is_written = space.get("read-write", space.get("read_write", False)) is True
        if is_written != (operand == "Outputs"):
            raise UserError(f"{where}: {operand} read-write is {is_written}")
        found[operand] = _axes(axes, operand, given, scale, where)
    for operand, axes in expected.items():
        wanted = sorted(sorted(term[0] for term in axis) for axis in axes)
        if found.get(operand) != wanted:
            raise UserError(
                f"{where}: the projection of {operand} is not that of a convolution with"
                f" dimensions {' '.join(dimensions)}"
            )
    return scale


def _axes(
    axes: Any, operand: str, given: dict[str, Any], scale: dict[str, int], where: str
) -> list[list[str]]:
    """Return the dimensions of each axis, sorted; coefficients of inputs go into `scale`."""
    found = []
    for axis in axes if isinstance(axes, list) else []:
        names = []
        for term in axis if isinstance(axis, list) else [None]:
            if not isinstance(term, list) or not 1 <= len(term) <= 2:
                raise UserError(f"{where}: projection of {operand} has {term!r}")
            name = "M" if term[0] == "K" else str(term[0])
            names.append(name)
            if len(term) == 2:
                value = given.get(str(term[1]))
                if type(value) is not int or value < 1:
                    raise UserError(f"{where}: coefficient {term[1]!r} is {value!r}")
                if operand == "Inputs" and name in scale:
                    scale[name] = value
                elif value != 1:
                    raise UserError(f"{where}: {operand} has {name} times {value}")
        found.append(sorted(names))
    return sorted(found)


def read_mapping(
    text: str, layer: Layer, architecture: TimeloopArchitecture, where: str = dialect.MAPPING
) -> Mapping:
    """Return the mapping of a mapping file.

    Args:
        text: The YAML.
        layer: What is mapped.
        architecture: What it is mapped to; has the names of the levels.
        where: Name of the file, for messages.
    Raises:
        UserError: If it is not a mapping of the layer that fits the architecture and that
            the cost model knows; names level and value.
    """
    directives = _entry(parse_yaml(text, where), "mapping", list, where)
    loops: dict[tuple[str, str], tuple[list, list]] = {}  # (level, kind) to loops on X, on Y
    kept: dict[str, set[str]] = {}
    for directive in directives:
        if not isinstance(directive, dict):
            raise UserError(f"{where}: directive {directive!r} is not an object")
        level = _target(directive, architecture, where)
        kind = directive.get("type")
        at = f"{where}: {kind} at {directive['target']}"
        if kind in ("temporal", "spatial"):
            if (level, kind) in loops:
                raise UserError(f"{at} is given twice")
            loops[level, kind] = _directive_loops(directive, kind, level, layer, architecture, at)
        elif kind in ("bypass", "datatype"):
            if level in kept:
                raise UserError(f"{at} is given twice")
            kept[level] = _kept(directive, at)
        else:
            raise UserError(f"{where}: type {kind!r} of a directive is not modelled")
    _check_kept(kept, architecture, where)
    x, y = _array_loops(loops, architecture, where)
    mapping = Mapping(
        tuple(
            Level(
                level,
                tuple(loops.get((level, "temporal"), ([], []))[0]),
                tuple(x) if level == "global_buffer" else (),
                tuple(y) if level == "global_buffer" else (),
            )
            for level in architecture.levels
            if level != dialect.Y_LEVEL
        )
    )
    try:
        check_fits(
            layer,
            mapping,
            pe_x=architecture.pe_x,
            pe_y=architecture.pe_y,
            rf_words=architecture.rf_words,
            global_buffer_words=architecture.global_buffer_words,
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return mapping


def _target(directive: dict, architecture: TimeloopArchitecture, where: str) -> str:
    """Return our name of the level that a directive is for."""
    names = {theirs: ours for ours, theirs in architecture.levels.items()}
    target = str(directive.get("target"))
    if target not in names:
        raise UserError(f"{where}: unknown level {target!r}{did_you_mean(target, names)}")
    return names[target]


def _directive_loops(
    directive: dict,
    kind: str,
    level: str,
    layer: Layer,
    architecture: TimeloopArchitecture,
    at: str,
) -> tuple[list, list]:
    """Return loops of bound above 1, outer to inner: those of a temporal level or on X; on Y."""
    unknown = set(directive) - {"target", "type", "factors", "permutation", "split"}
    if unknown:
        raise UserError(f"{at}: {', '.join(sorted(map(str, unknown)))} is not modelled")
    names = set(dialect.loop_names(dialect.problem_shape(layer)[1])) | {"G"}
    factors = _factors(directive.get("factors", ""), names, layer, at)
    order = _permutation(directive.get("permutation", ""), names, at)
    live = [name for name in order if factors.get(name, 1) > 1]
    loose = [name for name, bound in factors.items() if bound > 1 and name not in order]
    is_innermost = level == list(architecture.levels)[-1]
    if loose and not (is_innermost or (kind == "temporal" and not live and len(loose) == 1)):
        raise UserError(f"{at}: the permutation leaves out {', '.join(loose)}")
    if kind == "temporal":
        # Innermost first; Timeloop puts what is left out outside the rest.
        return [(name, factors[name]) for name in reversed([*live, *loose])], []
    split = directive.get("split", len(LOOPS))
    if type(split) is not int or split < 0:
        raise UserError(f"{at}: split is {split!r}, not a number of dimensions")
    outer_first = [(name, factors[name]) for name in reversed(live)]
    on_x = order[:split]
    return [o for o in outer_first if o[0] in on_x], [o for o in outer_first if o[0] not in on_x]


def _factors(value: Any, names: set[str], layer: Layer, at: str) -> dict[str, int]:
    """Return our loop to its factor, from text such as `C=3 M=1`."""
    text = " ".join(map(str, value)) if isinstance(value, list) else value
    if not isinstance(text, str):
        raise UserError(f"{at}: factors are {value!r}, not text such as C=3 M=1")
    pattern = r"([A-Za-z]+)\s*=?\s*(\d+)(,\s*\d+)?"
    rest = re.sub(pattern, "", text).replace(",", "").strip()
    if rest:
        raise UserError(f"{at}: factors have {rest!r}")
    factors: dict[str, int] = {}
    bounds = dict(zip(LOOPS, layer.loop_bounds, strict=True))
    if layer.kind == "depthwise":
        bounds |= {"K": layer.K, "G": 1}
    for dim, number, residue in re.findall(pattern, text):
        name = _loop(dim, names, at)
        if residue:
            raise UserError(f"{at}: factor {dim}={number}{residue} is imperfect: not modelled")
        if name in factors:
            raise UserError(f"{at}: {dim} has two factors")
        factors[name] = int(number) or bounds[name]  # 0 stands for the whole dimension
    return factors


def _permutation(value: Any, names: set[str], at: str) -> list[str]:
    text = "".join(map(str, value)) if isinstance(value, list) else value
    if not isinstance(text, str):
        raise UserError(f"{at}: permutation is {value!r}, not text such as RSCMPQN")
    order = [_loop(dim, names, at) for dim in re.sub(r"[\s,]", "", text)]
    if len(set(order)) < len(order):
        raise UserError(f"{at}: permutation {text!r} has a dimension twice")
    return order


def _loop(dim: str, names: set[str], at: str) -> str:
    name = "K" if dim == "M" else dim
    if name not in names:
        raise UserError(f"{at}: the problem has no dimension {dim!r}")
    return name


def _kept(directive: dict, at: str) -> set[str]:
    """Return the operands that a level keeps; what no list names is kept."""
    lists = {}
    for key in ("keep", "bypass"):
        lists[key] = directive.get(key) or []
        is_list = isinstance(lists[key], list)
        if not is_list or not all(name in dialect.OPERANDS for name in lists[key]):
            raise UserError(f"{at}: {key} is {lists[key]!r}, not a list of Weights Inputs Outputs")
    unknown = set(directive) - {"target", "type", *lists}
    if unknown:
        raise UserError(f"{at}: {', '.join(sorted(map(str, unknown)))} is not modelled")
    return set(dialect.OPERANDS) - set(lists["bypass"]) | set(lists["keep"])


def _check_kept(kept: dict[str, set[str]], architecture: TimeloopArchitecture, where: str) -> None:
    for level, name in architecture.levels.items():
        wanted: Sequence[str] = dialect.KEPT.get(level, dialect.OPERANDS)
        found = kept.get(level, set(dialect.OPERANDS))
        if found != set(wanted):
            raise UserError(
                f"{where}: {name} keeps {', '.join(sorted(found)) or 'nothing'}; modelled is that"
                f" it keeps {', '.join(wanted) or 'nothing'}"
            )


def _array_loops(
    loops: dict[tuple[str, str], tuple[list, list]],
    architecture: TimeloopArchitecture,
    where: str,
) -> tuple[list, list]:
    """Return the loops on X and on Y, which lie below the buffer, or below it and the Y level."""
    empty: tuple[list, list] = ([], [])
    for level, kind in loops:
        if kind == "spatial" and level not in ("global_buffer", dialect.Y_LEVEL):
            name = architecture.levels[level]
            raise UserError(f"{where}: spatial at {name}: only the array has spatial loops")
    x, y = loops.get(("global_buffer", "spatial"), empty)
    if dialect.Y_LEVEL not in architecture.levels:
        return x, y
    name = architecture.levels[dialect.Y_LEVEL]
    if loops.get((dialect.Y_LEVEL, "temporal"), empty)[0]:
        raise UserError(f"{where}: temporal at {name}: it stores nothing, so it has no loops")
    also_x, below = loops.get((dialect.Y_LEVEL, "spatial"), empty)
    if y or also_x:
        raise UserError(
            f"{where}: loops above {name} lie on X and those below it on Y; here are"
            f" {', '.join(dim for dim, _ in (*y, *also_x))} on the other side"
        )
    return x, below


def _entry(data: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(data, dict) or key not in data:
        raise UserError(f"{where}: has no {key}")
    if not isinstance(data[key], kind):
        raise UserError(f"{where}: {key} is {data[key]!r}, not a {kind.__name__}")
    return data[key]
