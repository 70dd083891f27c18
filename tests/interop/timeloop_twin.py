"""What timeloop-model makes of five files, from their YAML alone and the plain twins.

Reads with PyYAML's own safe loader and none of the product's code, so that a file which
says something else than the mapping it was made of gives another number here.
"""

from __future__ import annotations

import math
import re

import yaml

from tests import reference

ACTIONS = (("read", ("reads",)), ("write", ("fills",)), ("update", ("updates",)))
SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C is faster
_OPERANDS = {"Weights": "weights", "Inputs": "inputs", "Outputs": "outputs"}


def layer_of(problem: dict) -> dict:
    """Return the plain layer of a problem: by its projections, not by its name."""
    instance, shape = problem["instance"], problem["shape"]
    scale = {c["name"]: instance.get(c["name"], c["default"]) for c in shape["coefficients"]}
    axes = {space["name"]: space["projection"] for space in shape["data-spaces"]}
    by = {t[0]: scale[t[1]] for axis in axes["Inputs"] for t in axis if len(t) == 2}
    indexed = {space: {t[0] for axis in found for t in axis} for space, found in axes.items()}
    sizes = {d: instance[d] for d in shape["dimensions"]}
    groups = sizes.get("G", 1)
    assert indexed["Weights"] == set(sizes) & set("CMRSG")
    assert indexed["Outputs"] == set(sizes) & set("NMPQG")
    is_depthwise = "M" in indexed["Inputs"]
    assert indexed["Inputs"] == set(sizes) & set("NPQRSG" + "CM"[is_depthwise])
    return {
        "type": "depthwise" if is_depthwise else "conv",
        "K": sizes["M"] * groups,
        "C": sizes.get("C", 1),
        **{d: sizes[d] for d in "NPQRS"},
        **({"groups": groups} if groups > 1 else {}),
        "stride": [by["P"], by["Q"]],
        "dilation": [by["R"], by["S"]],
    }


def components_of(architecture: dict) -> list[dict]:
    """Return the components of a tree, outer to inner, with their number of instances."""
    found, node, count = [], architecture, 1
    while "subtree" in node:
        (node,) = node["subtree"]
        count *= _instances(node["name"])
        for part in node.get("local", []):
            own = {"name": part["name"].partition("[")[0], "class": part["class"]}
            found.append(own | part["attributes"] | {"count": count * _instances(part["name"])})
    return found


def _instances(name: str) -> int:
    return math.prod(int(n) + 1 for n in re.findall(r"\[0\.\.(\d+)\]", name))


def mapping_of(directives: list[dict], levels: list[str]) -> list[dict]:
    """Return the plain mapping of levels outer to inner, DummyBuffer's loops lying on Y."""
    empty = {"temporal": [], "spatial_x": [], "spatial_y": [], "keeps": list(_OPERANDS.values())}
    found = {name: {"level": name} | empty for name in levels}
    for directive in directives:
        level = found[directive["target"]]
        if directive["type"] == "bypass":
            assert {*directive["keep"], *directive["bypass"]} == set(_OPERANDS)
            level["keeps"] = [_OPERANDS[name] for name in directive["keep"]]
            continue
        factors = {f[0]: int(f[2:]) for f in directive["factors"].split()}
        order = directive["permutation"]
        assert set(order) == set(factors) and len(order) == len(factors)
        loops = [["K" if d == "M" else d, factors[d]] for d in order]
        cut = directive["split"] if directive["type"] == "spatial" else len(order)
        first = "spatial_x" if directive["type"] == "spatial" else "temporal"
        level[first] = [[d, b] for d, b in reversed(loops[:cut]) if b > 1]
        level["spatial_y"] = level["spatial_y"] or [
            [d, b] for d, b in reversed(loops[cut:]) if b > 1
        ]
    dummy = found.pop("DummyBuffer", None)
    if dummy:
        assert not dummy["keeps"] and not dummy["temporal"] and not dummy["spatial_x"]
        assert not found["shared_glb"]["spatial_y"]
        found["shared_glb"]["spatial_y"] = dummy["spatial_y"]
    renamed = {"DRAM": "dram", "shared_glb": "global_buffer"}
    return [level | {"level": renamed.get(name, name)} for name, level in found.items()]


def evaluate(texts: dict[str, str], *, accounting: str, as_timeloop: bool) -> dict:
    """Return MACs, cycles, energy, wire energy and area of five files.

    Args:
        texts: File name to YAML.
        accounting: "timeloop_2020" or "timeloop_2025": of the counts.
        as_timeloop: Count as Timeloop does, extrapolating loops and rounding up to whole
            actions; otherwise as the cost model does.
    """
    data = {name: yaml.load(text, Loader=SAFE_LOADER) for name, text in texts.items()}
    architecture = data["arch.yaml"]["architecture"]
    layer = layer_of(data["problem.yaml"]["problem"])
    parts = {part["name"]: part for part in components_of(architecture)}
    mac = parts.pop("mac")
    mapping = mapping_of(data["map.yaml"]["mapping"], list(parts))
    count = reference.extrapolated_counts if as_timeloop else reference.closed_counts
    counts = count(layer, mapping, accounting)
    _check_capacity(counts, parts)
    energies = {
        _last(table["name"]): {a["name"]: a["energy"] for a in table["actions"]}
        for table in data["ERT.yaml"]["ERT"]["tables"]
    }
    macs = reference.macs_of(layer)
    energy = macs * energies["mac"]["mac_random"]
    ours = {"dram": "DRAM", "global_buffer": "shared_glb"}
    for level, accesses in counts.items():
        name = ours.get(level, level)
        per, block = energies[name], parts[name]["block-size"]
        for access in accesses.values():
            words = {action: sum(access[kind] for kind in kinds) for action, kinds in ACTIONS}
            if as_timeloop and accounting == "timeloop_2020":
                energy += per["read"] * -(-sum(words.values()) // block)
            elif as_timeloop:
                energy += sum(per[action] * -(-words[action] // block) for action in words)
            else:
                energy += sum(per[action] * words[action] / block for action in words)
    dataflow = "row_stationary" if "DummyBuffer" in parts else "another"
    wires = _wires(layer, mapping, dataflow, counts, parts)
    buffer, dram = parts["shared_glb"], parts["DRAM"]
    total = reference.tally(layer, mapping, dataflow, counts)
    cycles = [
        total["compute_cycles"],
        math.ceil(total["buffer_reads"] / buffer["read_bandwidth"]),
        math.ceil(total["buffer_writes"] / buffer["write_bandwidth"]),
    ]
    if "shared_bandwidth" in dram:
        cycles.append(math.ceil(total["dram"] / dram["shared_bandwidth"]))
    area = sum(
        table["area"] * _instances(table["name"]) for table in data["ART.yaml"]["ART"]["tables"]
    )
    return {
        "macs": macs,
        "cycles": max(cycles),
        "energy_pj": energy + sum(wires.values()),
        "wires": wires,
        "area_um2": area,
        "pes": mac["count"],
    }


def _check_capacity(counts: dict, parts: dict[str, dict]) -> None:
    for name, part in parts.items():
        level = "global_buffer" if name == "shared_glb" else name
        if part["class"] != "DRAM" and name != "DummyBuffer":
            tiles = sum(access["tile_words"] for access in counts[level].values())
            assert tiles <= part["memory_depth"] * part["block-size"], name


def _last(path: str) -> str:
    """Return the component that a table's path names, as Timeloop cuts it out."""
    return re.sub(r"\[0\.\.\d+\]$", "", path).rpartition(".")[2]


def _wires(
    layer: dict, mapping: list[dict], dataflow: str, counts: dict, parts: dict[str, dict]
) -> dict[str, float]:
    """Return the wire energy per operand; all levels above the array have the same figures."""
    above = [parts[name] for name in ("shared_glb", "DummyBuffer") if name in parts]
    (figures,) = {(p.get("wire-energy", 0.0), p.get("tile-width", 0.0)) for p in above}
    pj_per_hop = parts["shared_glb"]["word-bits"] * figures[0] * figures[1] * 1e-3
    hops = reference.word_hops(layer, mapping, dataflow, counts)
    return {operand: pj_per_hop * number for operand, number in hops.items()}
