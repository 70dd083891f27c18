"""Timeloop's mapping files as our records.

What the cost model does not know (bypassed buffers, imperfect factors) is refused with one
line, never passed over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dance_tf.errors import UserError, did_you_mean
from dance_tf.files import Json
from dance_tf.hardware.loopnest.mapping import Level, Mapping
from dance_tf.interop import timeloop as dialect
from dance_tf.interop.fit import check_fits
from dance_tf.interop.timeloop_architecture import TimeloopArchitecture
from dance_tf.interop.timeloop_problem import ProblemNames
from dance_tf.interop.yaml_text import parse_yaml
from dance_tf.structs import LOOPS, Layer

__all__ = ["read_mapping"]

#: Entries of a directive that mean nothing.
_NOTHING: tuple[Json, ...] = (None, False, [], {})


def read_mapping(
    text: str,
    layer: Layer,
    architecture: TimeloopArchitecture,
    where: str = dialect.MAPPING,
    names: ProblemNames | None = None,
) -> Mapping:
    """Return the mapping of a mapping file.

    Args:
        text: The YAML.
        layer: Layer that is mapped.
        architecture: Architecture that it is mapped to; has the names of the levels.
        where: Name of the file, for messages.
        names: Dimensions and data spaces of the problem, as `problem_names` finds them; None:
            those of Timeloop's convolutions.
    Raises:
        UserError: If it is not a mapping of the layer that fits the architecture and that
            the cost model knows; names level and value.
    """
    names = names or _usual_names(layer)
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
            loops[level, kind] = _directive_loops(
                directive, kind, level, layer, architecture, names.loops, at
            )
        elif kind in ("bypass", "dataspace", "datatype"):
            found = _kept(directive, names.operands, at)
            if kept.setdefault(level, found) != found:
                raise UserError(f"{at} is given twice")
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


def _usual_names(layer: Layer) -> ProblemNames:
    """Return the names of Timeloop's convolutions, with K for M, and C for the depthwise M."""
    ours = dialect.loop_names(dialect.problem_shape(layer)[1])
    loops: dict[str, str | None] = {theirs: own for own, theirs in ours.items()}
    loops |= {"K": "K", "G": "G"} | ({"C": "K"} if layer.kind == "depthwise" else {})
    return ProblemNames(loops, {name: name for name in dialect.OPERANDS})


def _unknown(directive: dict, *known: str) -> str:
    """Return the entries of a directive that say something and that are not known."""
    found = (key for key, value in directive.items() if value not in _NOTHING)
    return ", ".join(sorted(str(key) for key in found if key not in known))


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
    names: dict[str, str | None],
    at: str,
) -> tuple[list, list]:
    """Return loops of bound above 1, outer to inner: those of a temporal level or on X; on Y."""
    unknown = _unknown(directive, "target", "type", "factors", "permutation", "split")
    if unknown:
        raise UserError(f"{at}: {unknown} is not modelled")
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


def _factors(value: Json, names: dict[str, str | None], layer: Layer, at: str) -> dict[str, int]:
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
        if name is None:
            if int(number) > 1:
                raise UserError(f"{at}: factor {dim}={number} of a dimension of bound 1")
            continue
        if name in factors:
            raise UserError(f"{at}: {dim} has two factors")
        factors[name] = int(number) or bounds[name]  # 0 stands for the whole dimension
    return factors


def _permutation(value: Json, names: dict[str, str | None], at: str) -> list[str]:
    text = "".join(map(str, value)) if isinstance(value, list) else value
    if not isinstance(text, str):
        raise UserError(f"{at}: permutation is {value!r}, not text such as RSCMPQN")
    loops = (_loop(dim, names, at) for dim in re.sub(r"[\s,]", "", text))
    order = [loop for loop in loops if loop is not None]
    if len(set(order)) < len(order):
        raise UserError(f"{at}: permutation {text!r} has a dimension twice")
    return order


def _loop(dim: str, names: dict[str, str | None], at: str) -> str | None:
    if dim not in names:
        raise UserError(f"{at}: the problem has no dimension {dim!r}")
    return names[dim]


def _kept(directive: dict, operands: dict[str, str], at: str) -> set[str]:
    """Return the operands that a level keeps; what no list names is kept."""
    lists = {}
    for key in ("keep", "bypass"):
        names = directive.get(key) or []
        is_list = isinstance(names, list)
        if not is_list or not all(isinstance(n, str) and n in operands for n in names):
            raise UserError(f"{at}: {key} is {names!r}, not a list of {' '.join(operands)}")
        lists[key] = {operands[name] for name in names}
    unknown = _unknown(directive, "target", "type", *lists)
    if unknown:
        raise UserError(f"{at}: {unknown} is not modelled")
    return set(dialect.OPERANDS) - lists["bypass"] | lists["keep"]


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


def _entry(data: Json, key: str, kind: type, where: str) -> Json:
    if not isinstance(data, dict) or key not in data:
        raise UserError(f"{where}: has no {key}")
    if not isinstance(data[key], kind):
        raise UserError(f"{where}: {key} is {data[key]!r}, not a {kind.__name__}")
    return data[key]
