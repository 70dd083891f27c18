"""The five files say what the mapping says: read alone, they give the reference runs' numbers."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import yaml

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.hardware.loopnest.mapper import best_mapping
from dance_tf.hardware.loopnest.mapping import Level, Mapping
from dance_tf.hardware.technology import format_technology, technology
from dance_tf.interop.timeloop_architecture import read_architecture
from dance_tf.interop.timeloop_problem import read_problem
from dance_tf.interop.timeloop_read import read_mapping
from dance_tf.interop.timeloop_write import write_timeloop
from dance_tf.structs import Accelerator, Layer
from tests.interop import timeloop_twin
from tests.interop.reference_runs import FOLDER, needs_folder, reference_cases, run_of

FILES = ("arch.yaml", "problem.yaml", "map.yaml", "ERT.yaml", "ART.yaml")


def test_the_files_alone_give_what_timeloop_gave():
    cases = reference_cases()
    assert len(cases) >= 30
    for case in cases:
        layer, accelerator, mapping, machine = run_of(case)
        texts = write_timeloop(layer, accelerator, mapping, machine)
        assert tuple(texts) == FILES
        found = timeloop_twin.evaluate(texts, accounting=case.accounting, as_timeloop=True)
        expected = case.cost
        # Timeloop divides in floating point: one cycle now and then.
        assert abs(found["cycles"] - expected["cycles"]) <= 1, case.name
        assert found["energy_pj"] == pytest.approx(expected["energy_pj"], rel=1e-7), case.name
        assert found["area_um2"] == pytest.approx(expected["area_um2"], rel=1e-9), case.name
        assert found["macs"] == layer.macs


def test_wires_are_those_of_the_runs():
    """The default technology's figures, at the levels above the array, give Timeloop's wires."""
    cases = [case for case in reference_cases() if "wire_energy_pj" in case.cost]
    assert cases
    for case in cases:
        layer, accelerator, mapping, machine = run_of(case, technology="cacti_45nm")
        texts = write_timeloop(layer, accelerator, mapping, machine)
        found = timeloop_twin.evaluate(texts, accounting=case.accounting, as_timeloop=True)
        wires = sum(found["wires"].values())
        assert wires == pytest.approx(case.cost["wire_energy_pj"], rel=1e-6), case.name


@needs_folder
def test_architectures_are_those_that_timeloop_ran():
    folder = FOLDER / "yaml" / "arch"
    paths = sorted(folder.glob("*.yaml"))
    assert len(paths) == 19
    dataflows = {"WS": "weight_stationary", "OS": "output_stationary", "RS": "row_stationary"}
    for path in paths:
        short, sides, words, rf_mode = path.stem.split("_")
        pe_x, pe_y = map(int, sides.split("x"))
        accelerator = Accelerator(pe_x, pe_y, 2 * int(words.removeprefix("rf")), dataflows[short])
        machine = MachineConfig(
            technology="accelergy_2020_45nm", rf_mode=rf_mode, dram_words_per_cycle=None
        )
        layer = Layer("one", "conv", 1, 1, 1, 1, 1, 1, 1)
        names = ("register_file",)
        if rf_mode == "split":
            names = ("input_spad", "weight_spad", "psum_spad")
        mapping = Mapping(tuple(map(Level, ("dram", "global_buffer", *names))))
        text = write_timeloop(layer, accelerator, mapping, machine)["arch.yaml"]
        ours = yaml.safe_load(text)
        attributes = ours["architecture"]["subtree"][0]["subtree"][0]["attributes"]
        assert attributes.pop("dataflow") == accelerator.dataflow
        assert ours == yaml.safe_load(path.read_text("utf-8")), path.name


@needs_folder
def test_problems_are_those_that_timeloop_ran():
    folder = FOLDER / "yaml" / "problems"
    layers = {case.layer["name"]: case for case in reference_cases() if "name" in case.layer}
    compared = 0
    for path in sorted(folder.glob("*.yaml")):
        if path.stem in layers:
            text = write_timeloop(*run_of(layers[path.stem]))["problem.yaml"]
            assert yaml.safe_load(text) == yaml.safe_load(path.read_text("utf-8")), path.name
            compared += 1
    assert compared >= 10


# --- kinds of layers and machines -------------------------------------------------------

ARRAY = Accelerator(16, 16, 64, "weight_stationary")
MACHINE = MachineConfig()


def plain_mapping(layer: Layer, **spatial) -> Mapping:
    """Return the mapping with all loops at DRAM but those on the array."""
    bounds = dict(zip("NKCPQRSG", layer.loop_bounds, strict=True))
    if layer.kind == "depthwise":
        bounds |= {"K": layer.K, "G": 1}
    for loops in spatial.values():
        for name, bound in loops:
            bounds[name] //= bound
    outer = tuple((name, bound) for name, bound in bounds.items() if bound > 1)
    return Mapping(
        (Level("dram", outer), Level("global_buffer", (), **spatial), Level("register_file"))
    )


def test_depthwise_has_no_loop_over_output_channels():
    """Eight channels of 16x16 with 3x3 filters: 18,432 MACs, not 147,456."""
    layer = Layer("dw", "depthwise", 1, 8, 1, 16, 16, 3, 3)
    text = write_timeloop(layer, ARRAY, plain_mapping(layer), MACHINE)["problem.yaml"]
    problem = yaml.safe_load(text)["problem"]
    assert problem["shape"]["dimensions"] == ["M", "R", "S", "N", "P", "Q"]
    macs = np.prod([problem["instance"][d] for d in problem["shape"]["dimensions"]])
    assert macs == layer.macs == 18432
    assert "18432 multiply-accumulates" in text


def test_groups_are_a_dimension_of_all_three_operands():
    layer = Layer("grouped", "conv", 1, 9, 2, 6, 6, 3, 3, groups=3)
    spatial_y = {"spatial_y": (("K", 3),)}
    texts = write_timeloop(layer, ARRAY, plain_mapping(layer, **spatial_y), MACHINE)
    problem = yaml.safe_load(texts["problem.yaml"])["problem"]
    assert {d: problem["instance"][d] for d in "GMC"} == {"G": 3, "M": 3, "C": 2}
    for space in problem["shape"]["data-spaces"]:
        assert [["G"]] in space["projection"]
    found = timeloop_twin.evaluate(texts, accounting="timeloop_2020", as_timeloop=False)
    assert found["macs"] == layer.macs == 5832


def test_padding_is_costed_and_the_real_macs_are_said():
    """Ten outputs over four PEs: 15 cycles of 60 padded MACs; 50 are real."""
    layer = Layer("odd", "conv", 1, 10, 5, 1, 1, 1, 1)
    padded = dataclasses.replace(layer, K=12)
    mapping = plain_mapping(padded, spatial_y=(("K", 4),))
    array = Accelerator(1, 4, 64, "weight_stationary")
    texts = write_timeloop(layer, array, mapping, MACHINE, padded_layer=padded)
    first = texts["problem.yaml"].splitlines()[0]
    assert first == "# layer 'odd': 50 multiply-accumulates; padded here to 60 (K 10 -> 12)"
    assert yaml.safe_load(texts["problem.yaml"])["problem"]["instance"]["M"] == 12
    machine = dataclasses.replace(MACHINE, dram_words_per_cycle=None)
    texts = write_timeloop(layer, array, mapping, machine, padded_layer=padded)
    found = timeloop_twin.evaluate(texts, accounting="timeloop_2020", as_timeloop=False)
    assert (found["macs"], found["cycles"]) == (60, 15)
    with pytest.raises(UserError, match=r"factors of K multiply to 12.*has 10"):
        write_timeloop(layer, array, mapping, MACHINE)


def test_mac_energy_is_the_table_s_on_every_array(tmp_path):
    """2.5 pJ per MAC, 6,912 MACs: 17,280 pJ whatever the array."""
    tech = technology("cacti_45nm")
    tech = dataclasses.replace(tech, mac_pj=dataclasses.replace(tech.mac_pj, value=2.5))
    (tmp_path / "mine.json").write_text(format_technology(tech))
    machine = MachineConfig(technology=str(tmp_path / "mine.json"), dram_words_per_cycle=None)
    layer = Layer("conv", "conv", 1, 4, 3, 8, 8, 3, 3)
    areas = []
    for sides in ((6, 7), (12, 14)):
        texts = write_timeloop(
            layer, Accelerator(*sides, 64, "row_stationary"), plain_mapping(layer), machine
        )
        tables = yaml.safe_load(texts["ERT.yaml"])["ERT"]["tables"]
        assert tables[-1]["name"] == f"system.acc.PE[0..{sides[0] * sides[1] - 1}].mac"
        (action,) = tables[-1]["actions"]
        assert (action["name"], action["energy"] * layer.macs) == ("mac_random", 17280.0)
        found = timeloop_twin.evaluate(texts, accounting="timeloop_2020", as_timeloop=False)
        areas.append(found["area_um2"])
        assert found["pes"] == sides[0] * sides[1]
    per_pe = float(tech.register_file_um2(32)) + tech.mac_um2.value
    assert areas[1] - areas[0] == pytest.approx((168 - 42) * per_pe)


def test_cycles_are_bounded_by_macs_over_pes():
    """43,008 MACs: 1,024 cycles on 42 PEs, 256 on 168."""
    layer = Layer("even", "conv", 1, 42, 1, 32, 32, 1, 1)
    machine = MachineConfig(dram_words_per_cycle=None, global_buffer_words_per_cycle=1e6)
    for sides, cycles, (on_x, on_y) in (
        ((6, 7), 1024, ((("K", 6),), (("K", 7),))),
        ((12, 14), 256, ((("K", 3), ("P", 4)), (("K", 14),))),
    ):
        mapping = plain_mapping(layer, spatial_x=on_x, spatial_y=on_y)
        texts = write_timeloop(layer, Accelerator(*sides, 64, "row_stationary"), mapping, machine)
        found = timeloop_twin.evaluate(texts, accounting="timeloop_2020", as_timeloop=False)
        assert found["cycles"] == cycles == layer.macs // (sides[0] * sides[1])


def test_numbers_stay_numbers_and_names_stay_names():
    """Dims that come from numpy are plain integers in YAML; N and Y are no booleans."""
    dims = {name: int(value) for name, value in zip("NKCPQRS", np.arange(2, 9), strict=True)}
    layer = Layer("numpy", "conv", **dims)
    for version in ("0.3", "0.4"):
        texts = write_timeloop(layer, ARRAY, plain_mapping(layer), MACHINE, version=version)
        assert "!!" not in "".join(texts.values())
        data = {name: yaml.safe_load(text) for name, text in texts.items()}
        for name, root in (("arch.yaml", "architecture"), ("ERT.yaml", "ERT"), ("ART.yaml", "ART")):
            assert data[name][root]["version"] == float(version)
        problem = data["problem.yaml"]["problem"]
        assert all(type(key) is str for key in problem["instance"])
        assert all(type(value) is int for value in problem["instance"].values())
        assert {*"CMRSNPQ"} <= set(problem["instance"])
        assert all(type(dim) is str for dim in problem["shape"]["dimensions"])
        # A reader of YAML 1.1 would take a bare N for false.
        assert "'N': 2" in texts["problem.yaml"] and "\n    N:" not in texts["problem.yaml"]


def test_an_array_of_one_pe_has_no_spatial_directive():
    layer = Layer("conv", "conv", 1, 2, 2, 2, 2, 1, 1)
    for dataflow in ("weight_stationary", "row_stationary"):
        texts = write_timeloop(
            layer, Accelerator(1, 1, 64, dataflow), plain_mapping(layer), MACHINE
        )
        kinds = [d["type"] for d in yaml.safe_load(texts["map.yaml"])["mapping"]]
        assert "spatial" not in kinds
        found = timeloop_twin.evaluate(texts, accounting="timeloop_2020", as_timeloop=False)
        assert found["macs"] == layer.macs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "0.5"}, "version is '0.5'; accepted are 0.3, 0.4"),
        ({"machine": {"rf_mode": "split"}}, "shared register files, the machine has rf_mode split"),
        ({"machine": {"word_bits": 8}}, "word_bits is 8"),
        ({"spatial_y": (("K", 32),)}, "uses 32 PEs on Y of 16"),
        ({"spatial_x": (("K", 2),), "spatial_y": (("K", 2),)}, "K lies on X and on Y"),
        ({"register_file": (("K", 32),)}, "tiles at register_file need 65 words of 32"),
        ({"register_file": (("K", 2), ("K", 2))}, "have a dimension twice"),
        ({"register_file": (("K", 3),)}, "factors of K multiply to"),
    ],
)
def test_what_cannot_be_said_is_one_line(change, message):
    layer = Layer("a layer", "conv", 1, 32, 4, 8, 8, 1, 1)
    spatial = {name: change[name] for name in ("spatial_x", "spatial_y") if name in change}
    mapping = plain_mapping(layer, **spatial)
    if "register_file" in change:
        inner = change["register_file"]
        left = tuple((n, b) for n, b in mapping.levels[0].temporal if n != "K")
        rest = 32 // int(np.prod([b for _, b in inner]))
        mapping = Mapping(
            (
                Level("dram", (*left, ("K", rest)) if rest > 1 else left),
                mapping.levels[1],
                Level("register_file", inner),
            )
        )
    machine = MachineConfig(**change.get("machine", {}))
    with pytest.raises(UserError, match=message) as caught:
        write_timeloop(layer, ARRAY, mapping, machine, version=change.get("version", "0.3"))
    assert "\n" not in str(caught.value)


def test_a_name_cannot_break_the_file():
    layer = Layer("a\nlayer: [1\n", "conv", 1, 2, 1, 1, 1, 1, 1)
    texts = write_timeloop(layer, ARRAY, plain_mapping(layer), MACHINE)
    assert texts["problem.yaml"].startswith("# layer 'a layer: [1': 2 multiply-accumulates\n")
    assert json.dumps(yaml.safe_load(texts["problem.yaml"]))


@pytest.mark.slow
@pytest.mark.parametrize("rf_mode", ["shared", "split"])
@pytest.mark.parametrize("dataflow", ["weight_stationary", "output_stationary", "row_stationary"])
def test_best_mappings_of_every_kind_give_their_number(dataflow, rf_mode):
    """Padded, grouped, depthwise and batched layers, under both rules, out and in again."""
    accelerator, machine = Accelerator(8, 12, 64, dataflow), MachineConfig(rf_mode=rf_mode)
    for layer in (
        Layer("strided", "conv", 1, 10, 5, 6, 5, 3, 3, stride=(2, 1)),
        Layer("depthwise", "depthwise", 1, 20, 1, 7, 7, 3, 3),
        Layer("grouped", "conv", 1, 18, 4, 6, 6, 3, 3, groups=3),
        Layer("pairs", "conv", 1, 16, 1, 6, 6, 3, 3, groups=8),
        Layer("batch", "conv", 2, 6, 4, 5, 5, 1, 1),
    ):
        for rule in ("strip", "timeloop"):
            best = best_mapping(layer, accelerator, machine, rule=rule)
            texts = write_timeloop(
                layer, accelerator, best.mapping, machine, padded_layer=best.padded_layer
            )
            found = timeloop_twin.evaluate(texts, accounting="timeloop_2020", as_timeloop=False)
            assert found["cycles"] == best.cost.cycles, (layer.name, rule)
            assert found["energy_pj"] == pytest.approx(best.cost.energy_pj, rel=1e-5)
            read = read_problem(texts["problem.yaml"], name=layer.name)
            assert read == best.padded_layer
            architecture = read_architecture(texts["arch.yaml"])
            assert read_mapping(texts["map.yaml"], read, architecture) == best.mapping
