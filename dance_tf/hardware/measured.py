"""A cost model that is a table of someone's own measurements: a CSV file.

One row per layer shape and accelerator, in any order:

- `kind`: `conv` (a dense layer too; the default) or `depthwise`
- `K`, `C`, `P`, `Q`, `R`, `S`, as in structs.Layer: output channels, input channels of one
  group, output width and height, filter width and height; `N` and `groups`, 1 by default
- `stride_w`, `dilation_w`, 1 by default; `stride_h`, `dilation_h`, by default the same
- `pe_x`, `pe_y`, `rf_bytes`, `dataflow`: the accelerator
- `latency_ms` (or `_s`, `_us`, `_ns`, `_cycles`): of the layer, or `infeasible`
- `energy_mj` (or `_j`, `_uj`, `_nj`, `_pj`): of the layer; empty where it is infeasible
- `area_mm2` (or `_cm2`, `_um2`): of the accelerator; one of its rows is enough
- `name`, `note`: for the reader, and not read

An optional column may be missing or have empty cells. No cost is filled in: a pair that
is asked for and not there is an error.
"""

from __future__ import annotations

import collections
import hashlib
import math
import os
from collections.abc import Sequence

import numpy as np

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError, did_you_mean, first_few
from dance_tf.files import local_path
from dance_tf.hardware.layers import different_layers, layer_key
from dance_tf.run.installation import tool_command
from dance_tf.run.reporting import read_csv, write_csv
from dance_tf.structs import DATAFLOWS, DIMENSIONS, Accelerator, Accelerators, Cost, Layer

__all__ = ["MeasuredCostModel", "write_cost_template"]

_INFEASIBLE = "infeasible"
_STEPS = ("stride_w", "stride_h", "dilation_w", "dilation_h")
_SHAPE = ("kind", *DIMENSIONS, *_STEPS, "groups")
_REQUIRED = ("K", "C", "P", "Q", "R", "S", "pe_x", "pe_y", "rf_bytes", "dataflow")
_OPTIONAL = ("name", "note", "kind", "N", "groups", *_STEPS)
#: Columns of each quantity, and what turns their numbers into ms, pJ or um2. Cycles are
#: those of the machine's clock.
_UNITS: dict[str, dict[str, float]] = {
    "latency": {
        "latency_ms": 1.0,
        "latency_s": 1e3,
        "latency_us": 1e-3,
        "latency_ns": 1e-6,
        "latency_cycles": math.nan,
    },
    "energy": {
        "energy_mj": 1e9,
        "energy_j": 1e12,
        "energy_uj": 1e6,
        "energy_nj": 1e3,
        "energy_pj": 1.0,
    },
    "area": {"area_mm2": 1e6, "area_cm2": 1e8, "area_um2": 1.0},
}
_TEMPLATE = (
    "name",
    *_SHAPE,
    "pe_x",
    "pe_y",
    "rf_bytes",
    "dataflow",
    "latency_ms",
    "energy_mj",
    "area_mm2",
)

#: Number of missing pairs that a message names.
_NAMED = 3

_Key = tuple[int, ...]  # what layers.layer_key returns
_Array = tuple[int, int, int, int]  # pe_x, pe_y, rf_bytes, code of the dataflow


class MeasuredCostModel:
    """Costs of layers from a CSV file; a protocols.CostModel.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "mine.csv"
    >>> _ = path.write_text(
    ...     "K,C,P,Q,R,S,pe_x,pe_y,rf_bytes,dataflow,latency_ms,energy_mj,area_mm2\\n"
    ...     "8,3,16,16,3,3,16,8,64,row_stationary,0.25,0.004,1.5\\n"
    ... )
    >>> model = MeasuredCostModel(path)
    >>> layer = Layer("first", "conv", N=1, K=8, C=3, P=16, Q=16, R=3, S=3)
    >>> one = Accelerators(*np.array([[16], [8], [64], [DATAFLOWS.index("row_stationary")]]))
    >>> model([layer], one).latency_cycles  # of a clock of 200 MHz
    array([[50000.]])

    Attributes:
        path: The file.
        num_rows: Pairs of a layer shape and an accelerator in it.
        sha256: Hash of what the file says, not of how it is laid out: order of rows and
            columns, line ends and units make no difference.
    """

    def __init__(self, path: str | os.PathLike[str], machine: MachineConfig | None = None) -> None:
        """Read the file.

        Args:
            path: CSV, see the module.
            machine: Its clock turns milliseconds into cycles.
        Raises:
            UserError: Names file, row and column of what cannot be read.
        """
        self.path = os.fspath(path)
        rows = read_csv(local_path(self.path, "hardware.measured_csv"), _REQUIRED)
        if not rows:
            raise UserError(f"{self.path}: a header and no rows; fill in costs")
        scale = _units(self.path, list(rows[0]), machine or MachineConfig())
        self._costs: dict[tuple[int, ...], dict[_Array, tuple[float, float]]] = (
            collections.defaultdict(dict)
        )
        self._areas: dict[_Array, float] = {}
        # Most rows repeat the cells of a layer and of an accelerator: each is read once.
        keys: dict[tuple[str, ...], _Key] = {}
        arrays: dict[tuple[str, ...], _Array] = {}
        columns = [name for name in _SHAPE if name in rows[0]]
        mistakes = []
        for number, row in enumerate(rows, start=1):
            where = f"row {number} below the header"
            try:
                shape = tuple([row[name] for name in columns])
                if shape not in keys:
                    keys[shape] = layer_key(_layer(row, where))
                cells = (row["pe_x"], row["pe_y"], row["rf_bytes"], row["dataflow"])
                if cells not in arrays:
                    arrays[cells] = _array(row, where)
                array, costs = arrays[cells], self._costs[keys[shape]]
                if array in costs:
                    raise UserError(
                        f"{where}: a second cost of {_layer_text(row)} on {_text(array)}"
                    )
                costs[array] = _cost(row, scale, where)
                self._add_area(row, array, scale, where)
            except UserError as error:
                mistakes.append(str(error))
        if mistakes:
            raise UserError(f"{self.path} {first_few(mistakes)}")
        self.num_rows = len(rows)
        self.sha256 = self._digest()

    @property
    def fingerprint(self) -> str:
        """Everything that determines the numbers, as text."""
        return f"measured {self.sha256}"

    def __call__(self, layers: Sequence[Layer], accelerators: Accelerators) -> Cost:
        """Return the costs in the file.

        Args:
            layers: L layers.
            accelerators: Fields [A].
        Returns:
            latency_cycles and energy_pj, float64 [L, A], infinite where the file says
            infeasible; area_um2, float64 [A].
        Raises:
            UserError: If the file lacks a pair, or the area of an accelerator.
        """
        self.check(layers, accelerators)
        arrays = _arrays(accelerators)
        cycles, energy = np.zeros((2, len(layers), len(arrays)))
        for index, layer in enumerate(layers):
            costs = self._costs[layer_key(layer)]
            cycles[index], energy[index] = np.asarray([costs[array] for array in arrays]).T
        area = np.asarray([self._areas[array] for array in arrays])
        return Cost(latency_cycles=cycles, energy_pj=energy, area_um2=area)

    def check(self, layers: Sequence[Layer], accelerators: Accelerators) -> None:
        """Refuse layers and accelerators of which the file lacks something, all that it lacks.

        Raises:
            UserError: Counts all pairs, or areas, that are missing, and names the first.
        """
        arrays = _arrays(accelerators)
        missing = [
            (layer, array)
            for layer in layers
            for array in arrays
            if array not in self._costs.get(layer_key(layer), {})
        ]
        if missing:
            named = [f"{_shape_text(layer)} on {_text(array)}" for layer, array in missing[:_NAMED]]
            more = len(missing) - len(named)
            named += [f"{more} more"] * bool(more)
            count = f" ({len(missing)} of {len(layers) * len(arrays)} are missing)"
            raise UserError(
                f"{self.path} has no row for {'; '.join(named)}{count * (len(missing) > 1)}: add"
                f" {'them' if len(missing) > 1 else 'it'}, with {_INFEASIBLE} as the latency of"
                f" what cannot run (`{tool_command('cost_template')}` lists the rows that a space"
                " needs)"
            )
        without = [_text(array) for array in arrays if array not in self._areas]
        if without:
            raise UserError(
                f"{self.path} has no area for {first_few(without)}: give it in a row of each"
            )

    def _add_area(
        self, row: dict[str, str], array: _Array, scale: dict[str, float], where: str
    ) -> None:
        (name,) = [unit for unit in scale if unit.startswith("area")]
        if not row[name]:
            return
        area = _number(row[name], f"{where}: {name}") * scale[name]
        if self._areas.setdefault(array, area) != area:
            raise UserError(
                f"{where}: {name} of {_text(array)} is {row[name]}, but"
                f" {self._areas[array] / scale[name]:g} in a row above"
            )

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for key in sorted(self._costs):
            digest.update(repr((key, sorted(self._costs[key].items()))).encode())
        digest.update(repr(sorted(self._areas.items())).encode())
        return digest.hexdigest()


def write_cost_template(
    path: str | os.PathLike[str],
    layers: Sequence[Layer],
    accelerators: Accelerators,
    cost: Cost | None = None,
    machine: MachineConfig | None = None,
) -> int:
    """Write the CSV file that MeasuredCostModel reads, accelerator by accelerator.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "template.csv"
    >>> layer = Layer("first", "conv", N=1, K=8, C=3, P=16, Q=16, R=3, S=3)
    >>> two = Accelerators(*np.array([[8, 16], [8, 8], [64, 64], [2, 2]]))
    >>> write_cost_template(path, [layer], two)
    2
    >>> print(path.read_text().splitlines()[1])
    first,conv,1,8,3,16,16,3,3,1,1,1,1,1,8,8,64,row_stationary,,,

    Args:
        path: File.
        layers: L layers; of those with one shape, the first is written.
        accelerators: Fields [A].
        cost: Cost of `layers` on `accelerators`; None leaves the costs empty, to be filled in.
        machine: Its clock turns cycles into milliseconds.
    Returns:
        The number of rows.
    """
    cycles_per_ms = (machine or MachineConfig()).cycles_per_ms
    different = different_layers(layers)
    index = {layer: row for row, layer in reversed(list(enumerate(layers)))}
    rows = []
    for column, array in enumerate(_arrays(accelerators)):
        for first, layer in enumerate(different):
            costs: list[float | str] = ["", "", ""]
            if cost is not None:
                latency_ms = float(cost.latency_cycles[index[layer], column]) / cycles_per_ms
                energy_mj = float(cost.energy_pj[index[layer], column]) * 1e-9
                can_run = math.isfinite(latency_ms)
                costs = [latency_ms, energy_mj] if can_run else [_INFEASIBLE, ""]
                costs.append("" if first else float(cost.area_um2[column]) * 1e-6)
            shape = [layer.kind, *layer.dims, *layer.stride, *layer.dilation, layer.groups]
            rows.append([layer.name, *shape, *array[:3], DATAFLOWS[array[3]], *costs])
    write_csv(path, _TEMPLATE, rows)
    return len(rows)


def _arrays(accelerators: Accelerators) -> list[_Array]:
    columns = [np.asarray(field).tolist() for field in accelerators]
    return list(zip(*columns, strict=True))


# Reading a row


def _units(path: str, header: list[str], machine: MachineConfig) -> dict[str, float]:
    """Return the unit columns that there are, and what turns each into cycles, pJ or um2."""
    known = (*_REQUIRED, *_OPTIONAL, *(name for columns in _UNITS.values() for name in columns))
    mistakes = [
        f"unknown column {name!r}{did_you_mean(name, known)}"
        for name in filter(None, header)  # a spreadsheet may add columns without a name
        if name not in known
    ]
    for columns in _UNITS.values():
        given = [name for name in columns if name in header]
        if len(given) > 1:
            mistakes.append(f"has both {given[0]} and {given[1]}: keep one of them")
        elif not given and not mistakes:  # it may be what is unknown
            mistakes.append(f"no column {' or '.join(columns)}")
    if mistakes:
        raise UserError(f"{path}: {first_few(mistakes)}")
    scale = {name: by for columns in _UNITS.values() for name, by in columns.items()}
    scale = {name: by for name, by in scale.items() if name in header}
    return {
        name: (1.0 if name == "latency_cycles" else by * machine.cycles_per_ms)
        if name in _UNITS["latency"]
        else by
        for name, by in scale.items()
    }


def _layer(row: dict[str, str], where: str) -> Layer:
    def integer(name: str, default: int | None = None) -> int:
        return _integer(row.get(name, ""), f"{where}: {name}", default)

    dims = {name: integer(name, 1 if name == "N" else None) for name in DIMENSIONS}
    stride, dilation = (
        (step := integer(f"{name}_w", 1), integer(f"{name}_h", step))
        for name in ("stride", "dilation")
    )
    kind = row.get("kind") or "conv"
    try:
        return Layer(
            row.get("name", ""),
            kind,
            **dims,
            stride=stride,
            dilation=dilation,
            groups=integer("groups", 1),
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _array(row: dict[str, str], where: str) -> _Array:
    pe_x, pe_y, rf_bytes = (
        _integer(row[name], f"{where}: {name}", None) for name in ("pe_x", "pe_y", "rf_bytes")
    )
    try:
        accelerator = Accelerator(pe_x, pe_y, rf_bytes, row["dataflow"])
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return pe_x, pe_y, rf_bytes, DATAFLOWS.index(accelerator.dataflow)


def _cost(row: dict[str, str], scale: dict[str, float], where: str) -> tuple[float, float]:
    """Return cycles and pJ, infinite where the row says infeasible."""
    latency, energy = [unit for unit in scale if not unit.startswith("area")]
    cells = [row[latency].lower(), row[energy].lower()]
    if _INFEASIBLE in cells:
        if not set(cells) <= {_INFEASIBLE, ""}:
            raise UserError(f"{where}: {_INFEASIBLE}, and yet {latency} or {energy} is given")
        return math.inf, math.inf
    values = [
        _number(row[name], f"{where}: {name}", f", or {_INFEASIBLE} as {latency}") * scale[name]
        for name in (latency, energy)
    ]
    return values[0], values[1]


def _integer(text: str, what: str, default: int | None) -> int:
    if not text and default is not None:
        return default
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UserError(f"{what} is {text!r}, not a positive integer")
    return int(text)


def _number(text: str, what: str, otherwise: str = "") -> float:
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        shown = repr(text) if text else "empty"
        raise UserError(f"{what} is {shown}, not a positive finite number{otherwise}")
    return value


# Words for messages


def _text(array: _Array) -> str:
    return f"{array[0]}x{array[1]} {DATAFLOWS[array[3]]} with {array[2]} B"


def _layer_text(row: dict[str, str]) -> str:
    shape = " ".join(f"{name}={row[name]}" for name in DIMENSIONS if row.get(name))
    return f"{row.get('kind') or 'conv'} {shape}"


def _shape_text(layer: Layer) -> str:
    shape = " ".join(f"{name}={value}" for name, value in zip(DIMENSIONS, layer.dims, strict=True))
    stride, dilation = ("x".join(map(str, pair)) for pair in (layer.stride, layer.dilation))
    of_groups = f", groups {layer.groups}" if layer.groups > 1 else ""
    return f"{layer.kind} {shape}, stride {stride}, dilation {dilation}{of_groups}"
