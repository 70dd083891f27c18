"""accelerator.json: the accelerator of a run, its machine and what a network costs on it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from dance_tf.config import MachineConfig, config_from_json
from dance_tf.errors import UserError
from dance_tf.strict_json import read_json, write_json
from dance_tf.structs import Accelerator

__all__ = ["read_accelerator", "write_accelerator"]

_SCHEMA_VERSION = 1

#: What the numbers of an accelerator are; other units are in the names.
_UNITS = {
    "pe_x": "processing elements along x",
    "pe_y": "processing elements along y",
    "rf_bytes": "bytes of register file in each processing element",
    "dataflow": "name",
}


def write_accelerator(
    path: str | os.PathLike,
    accelerator: Accelerator,
    machine: MachineConfig,
    exact_cost: Any,
    *,
    cost_source: Mapping[str, Any] | None = None,
) -> None:
    """Write accelerator.json, read it again and compare.

    Args:
        path: File.
        accelerator: The accelerator.
        machine: What it shares with all accelerators of its space.
        exact_cost: A record or a dict of numbers with units in their names, such as
            latency_ms, of the run's network on this accelerator.
        cost_source: Where that cost comes from, such as the technology and its hash.
    """
    if dataclasses.is_dataclass(exact_cost) and not isinstance(exact_cost, type):
        exact_cost = dataclasses.asdict(exact_cost)
    data = {
        "schema_version": _SCHEMA_VERSION,
        "accelerator": dataclasses.asdict(accelerator),
        "units": _UNITS,
        "machine": dataclasses.asdict(machine),
        "exact_cost": dict(exact_cost),
        **({} if cost_source is None else {"cost_source": dict(cost_source)}),
    }
    write_json(path, data)
    if read_accelerator(path)[:2] != (accelerator, machine):
        os.remove(path)
        raise RuntimeError(f"{os.fspath(path)}: does not read back as it was written; removed")


def read_accelerator(
    path: str | os.PathLike,
) -> tuple[Accelerator, MachineConfig, Mapping[str, Any]]:
    """Return accelerator, machine and exact cost of an accelerator.json.

    Raises:
        UserError: If it cannot be read or a field is missing, unknown or out of range.
    """
    data, where = read_json(path), os.fspath(path)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != _SCHEMA_VERSION:
        raise UserError(f"{where}: schema_version is {version!r}, this reads {_SCHEMA_VERSION}")
    for key in ("accelerator", "machine", "exact_cost"):
        if not isinstance(data.get(key), dict):
            raise UserError(f"{where}: {key} is missing or not an object")
    fields = [field.name for field in dataclasses.fields(Accelerator)]
    if set(data["accelerator"]) != set(fields):
        raise UserError(f"{where}: accelerator has to have {', '.join(fields)} and no more")
    try:
        accelerator = Accelerator(**data["accelerator"])
        machine = config_from_json({"hardware": {"machine": data["machine"]}}).hardware.machine
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return accelerator, machine, data["exact_cost"]
