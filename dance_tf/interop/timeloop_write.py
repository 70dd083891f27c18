"""One mapping as the five files that timeloop-model evaluates.

    timeloop-model arch.yaml problem.yaml map.yaml ERT.yaml ART.yaml

The energy and area tables hold our technology's figures, so that Timeloop's total is ours:
DRAM and global buffer move four words in one action, whose energy is four times that of a
word. Where the array's wires cost energy, `wire-energy` and `tile-width` of the levels
above it say so. Timeloop rounds accesses up to whole actions, and lets iterations 0 and 1
of a loop stand for the rest, which the cost model does not; see validation.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.files import Json
from dance_tf.hardware.loopnest.mapping import Mapping
from dance_tf.hardware.technology import technology_of
from dance_tf.interop import timeloop as dialect
from dance_tf.interop.fit import check_fits
from dance_tf.interop.yaml_text import format_yaml
from dance_tf.structs import Accelerator, Layer

__all__ = ["write_timeloop"]

_Loops = Sequence[tuple[str, int]]


def write_timeloop(
    layer: Layer,
    accelerator: Accelerator,
    mapping: Mapping,
    machine: MachineConfig,
    *,
    padded_layer: Layer | None = None,
    version: str = "0.3",
) -> dict[str, str]:
    """Return the text of each file of one evaluation.

    The padded layer is what is costed, so it is the problem; the MACs of the real layer
    stand in the comment on top of it.

    Args:
        layer: The real layer.
        accelerator: Array, register file and dataflow. Only row_stationary has two steps
            from the buffer to the PEs.
        mapping: Mapping of `padded_layer`.
        machine: Buffer, bandwidths, technology.
        padded_layer: Layer that the mapping multiplies out to; None: the layer itself.
        version: One of `timeloop.VERSIONS`.
    Returns:
        File name to text, in the order of timeloop-model's arguments.
    Raises:
        UserError: If the mapping is not one of the layer, does not fit the machine, or
            cannot be said in Timeloop's words; names the layer.
    """
    dialect.check_version(version, "Timeloop")
    costed = layer if padded_layer is None else padded_layer
    _check(costed, accelerator, mapping, machine)
    where = f"layer {' '.join(layer.name.split())!r}"
    macs = f"{where}: {layer.macs} multiply-accumulates"
    if costed.macs != layer.macs:
        grown = [
            f"{name} {real} -> {padded}"
            for name, real, padded in zip("NKCPQRS", layer.dims, costed.dims, strict=True)
            if real != padded
        ]
        macs += f"; padded here to {costed.macs} ({', '.join(grown)})"
    return {
        dialect.ARCHITECTURE: format_yaml(_architecture(accelerator, machine, version)),
        dialect.PROBLEM: format_yaml(_problem(costed), comment=macs),
        dialect.MAPPING: format_yaml(_mapping(costed, accelerator, mapping), comment=where),
        dialect.ENERGIES: format_yaml(_energies(accelerator, machine, version)),
        dialect.AREAS: format_yaml(_areas(accelerator, machine, version)),
    }


def _check(
    layer: Layer, accelerator: Accelerator, mapping: Mapping, machine: MachineConfig
) -> None:
    check_fits(
        layer,
        mapping,
        pe_x=accelerator.pe_x,
        pe_y=accelerator.pe_y,
        rf_words=machine.rf_words(accelerator.rf_bytes),
        global_buffer_words=machine.global_buffer_words,
    )
    if mapping.is_split != (machine.rf_mode == "split"):
        files = "split" if mapping.is_split else "shared"
        raise UserError(
            f"layer {layer.name!r}: the mapping has {files} register files,"
            f" the machine has rf_mode {machine.rf_mode}"
        )
    for level in mapping.levels:
        for place in ("temporal", "spatial_x", "spatial_y"):
            names = [name for name, _ in getattr(level, place)]
            if len(set(names)) < len(names):
                raise UserError(
                    f"layer {layer.name!r}: {place} loops of {level.name} have a dimension"
                    " twice, which Timeloop cannot say"
                )
    array = mapping.levels[1]
    shared = {name for name, _ in array.spatial_x} & {name for name, _ in array.spatial_y}
    if shared and accelerator.dataflow != "row_stationary":
        raise UserError(
            f"layer {layer.name!r}: {', '.join(sorted(shared))} lies on X and on Y, which"
            " Timeloop can say of row_stationary arrays only"
        )


def _files(machine: MachineConfig) -> tuple[str, ...]:
    """Return Timeloop's names of the register files, outer to inner."""
    levels = dialect.MAPPING_LEVELS[3 if machine.rf_mode == "split" else 1]
    return tuple(dialect.LEVELS[level] for level in levels[2:])


def _block_words(machine: MachineConfig) -> int:
    """Return words per access of DRAM and buffer: a buffer is whole accesses deep."""
    return math.gcd(dialect.BLOCK_WORDS, machine.global_buffer_words)


def _architecture(
    accelerator: Accelerator, machine: MachineConfig, version: str
) -> dict[str, Json]:
    tech = technology_of(machine)
    words, block = machine.rf_words(accelerator.rf_bytes), _block_words(machine)
    wide = {"block-size": block, "word-bits": machine.word_bits}
    narrow = {"block-size": 1, "word-bits": machine.word_bits}
    mesh = {"meshX": accelerator.pe_x}
    wires: dict[str, float] = {}
    if tech.wire_pj_per_bit_mm.value:
        pitch_um = float(tech.pe_pitch_mm(words)) * 1e3
        wires = {"wire-energy": tech.wire_pj_per_bit_mm.value, "tile-width": pitch_um}
    dram: dict[str, Json] = {"type": "LPDDR4", "width": block * machine.word_bits, **wide}
    if machine.dram_words_per_cycle is not None:
        # One bus for reads and writes; older releases of Timeloop pass over it.
        dram["shared_bandwidth"] = _number(machine.dram_words_per_cycle)
    buffer = {
        "memory_depth": machine.global_buffer_words // block,
        "memory_width": block * machine.word_bits,
        "n_banks": 32,
        **wide,
        "read_bandwidth": _number(machine.global_buffer_words_per_cycle),
        "write_bandwidth": _number(machine.global_buffer_words_per_cycle),
        **wires,
    }
    register_file = {"memory_depth": words, "memory_width": machine.word_bits, **narrow, **mesh}
    chip = [_component(dialect.LEVELS["global_buffer"], "smartbuffer_SRAM", buffer)]
    if accelerator.dataflow == "row_stationary":
        dummy = {"depth": 16, "width": machine.word_bits, **narrow, **mesh, **wires}
        chip.append(_component(_indexed(dialect.Y_LEVEL, accelerator.pe_x), "regfile", dummy))
    inside_pe = [_component(name, "smartbuffer_RF", register_file) for name in _files(machine)]
    inside_pe.append(_component("mac", "intmac", {"datawidth": machine.word_bits, **mesh}))
    pe = {"name": _indexed("PE", accelerator.num_pes), "local": inside_pe}
    # Timeloop passes over `dataflow`; our reader does not.
    node = re.search(r"\d+nm", tech.name)
    attributes = {"technology": node.group()} if node else {}
    attributes["dataflow"] = accelerator.dataflow
    acc = {"name": "acc", "attributes": attributes, "local": chip, "subtree": [pe]}
    system = {
        "name": "system",
        "local": [_component(dialect.LEVELS["dram"], "DRAM", dram)],
        "subtree": [acc],
    }
    return {"architecture": {"version": float(version), "subtree": [system]}}


def _component(name: str, kind: str, attributes: dict[str, Json]) -> dict[str, Json]:
    return {"name": name, "class": kind, "attributes": attributes}


def _indexed(name: str, count: int) -> str:
    return f"{name}[0..{count - 1}]"


def _problem(layer: Layer) -> dict[str, Json]:
    shape, dimensions = dialect.problem_shape(layer)
    coefficients = dialect.input_coefficients(layer)
    loops = dict(zip("NKCPQRSG", layer.loop_bounds, strict=True))
    if layer.kind == "depthwise":
        loops["K"] = layer.K
    names = dialect.loop_names(dimensions)
    spaces = [
        {"name": name, "projection": [[list(term) for term in axis] for axis in axes]}
        | ({"read-write": True} if name == "Outputs" else {})
        for name, axes in dialect.projections(dimensions).items()
    ]
    return {
        "problem": {
            "instance": {theirs: loops[ours] for ours, theirs in names.items()} | coefficients,
            "shape": {
                "name": shape,
                "dimensions": list(dimensions),
                "coefficients": [{"name": name, "default": 1} for name in coefficients],
                "data-spaces": spaces,
            },
        }
    }


def _mapping(layer: Layer, accelerator: Accelerator, mapping: Mapping) -> dict[str, Json]:
    names = dialect.loop_names(dialect.problem_shape(layer)[1])
    directives = []
    for level in mapping.levels:
        target = dialect.LEVELS[level.name]
        if level.name != "dram":
            directives.append(_keep(target, dialect.KEPT.get(level.name, dialect.OPERANDS)))
        directives.append(_loops(target, "temporal", level.temporal, names))
        if level.name != "global_buffer":
            continue
        if accelerator.dataflow == "row_stationary":
            if accelerator.pe_x > 1:
                directives.append(_spatial(target, level.spatial_x, (), names))
            directives.append(_keep(dialect.Y_LEVEL, ()))
            directives.append(_loops(dialect.Y_LEVEL, "temporal", (), names))
            if accelerator.pe_y > 1:
                directives.append(_spatial(dialect.Y_LEVEL, (), level.spatial_y, names))
        elif accelerator.num_pes > 1:
            directives.append(_spatial(target, level.spatial_x, level.spatial_y, names))
    return {"mapping": directives}


def _keep(target: str, kept: Sequence[str]) -> dict[str, Json]:
    bypassed = [name for name in dialect.OPERANDS if name not in kept]
    return {"target": target, "type": "bypass", "keep": list(kept), "bypass": bypassed}


def _loops(target: str, kind: str, loops: _Loops, names: dict[str, str]) -> dict[str, Json]:
    """Return the directive of loops given outer to inner; all other dimensions get 1."""
    factors = dict(loops)
    idle = [name for name in names if name not in factors]
    innermost_first = [*reversed([name for name, _ in loops]), *idle]
    return {
        "target": target,
        "type": kind,
        "factors": " ".join(f"{theirs}={factors.get(ours, 1)}" for ours, theirs in names.items()),
        "permutation": "".join(names[name] for name in innermost_first),
    }


def _spatial(target: str, x: _Loops, y: _Loops, names: dict[str, str]) -> dict[str, Json]:
    """Return the directive of an array: the first `split` of the permutation lie on X."""
    return _loops(target, "spatial", (*y, *x), names) | {"split": len(x)}


def _energies(accelerator: Accelerator, machine: MachineConfig, version: str) -> dict[str, Json]:
    tech = technology_of(machine)
    words, block = machine.rf_words(accelerator.rf_bytes), _block_words(machine)
    read_pj, write_pj = tech.global_buffer_pj(machine.global_buffer_kib, machine.accounting)
    file_pj = (float(pj) for pj in tech.register_file_pj(words, machine.accounting))
    dram_pj = (block * pj for pj in tech.dram_pj(machine.accounting))

    def actions(read: float, write: float) -> dict[str, float]:
        return {"read": read, "write": write, "update": write}

    energies = {"dram": actions(*dram_pj)}
    energies["global_buffer"] = actions(block * read_pj, block * write_pj)
    energies |= {"dummy": actions(0.0, 0.0), "file": actions(*file_pj)}
    energies["mac"] = {"mac_random": tech.mac_pj.value}
    tables = [
        {
            "name": path,
            "actions": [
                {"name": name, "arguments": {}, "energy": energy}
                for name, energy in energies[kind].items()
            ],
        }
        for path, kind in _components(accelerator, machine)
    ]
    return {"ERT": {"version": float(version), "tables": tables}}


def _areas(accelerator: Accelerator, machine: MachineConfig, version: str) -> dict[str, Json]:
    tech = technology_of(machine)
    areas = {
        "dram": 0.0,  # off the chip
        "global_buffer": tech.global_buffer_area_um2(machine.global_buffer_kib),
        "dummy": 0.0,
        "file": float(tech.register_file_um2(machine.rf_words(accelerator.rf_bytes))),
        "mac": tech.mac_um2.value,
    }
    tables = [
        {"name": path, "area": areas[kind]} for path, kind in _components(accelerator, machine)
    ]
    return {"ART": {"version": float(version), "tables": tables}}


def _components(accelerator: Accelerator, machine: MachineConfig) -> list[tuple[str, str]]:
    """Return path and kind of every component of the tree, outer to inner."""
    pe = f"system.acc.{_indexed('PE', accelerator.num_pes)}"
    found = [
        (f"system.{dialect.LEVELS['dram']}", "dram"),
        (f"system.acc.{dialect.LEVELS['global_buffer']}", "global_buffer"),
    ]
    if accelerator.dataflow == "row_stationary":
        found.append((f"system.acc.{_indexed(dialect.Y_LEVEL, accelerator.pe_x)}", "dummy"))
    found += [(f"{pe}.{name}", "file") for name in _files(machine)]
    return [*found, (f"{pe}.mac", "mac")]


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(value)
