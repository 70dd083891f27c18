"""Timeloop's files as our records: round trips, what Timeloop ran, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.hardware.loopnest.mapping import mapping_from_json, mapping_to_json
from dance_tf.interop.timeloop_architecture import read_architecture
from dance_tf.interop.timeloop_problem import read_problem
from dance_tf.interop.timeloop_read import read_mapping
from dance_tf.interop.timeloop_write import write_timeloop
from dance_tf.structs import Accelerator, Layer
from tests import strategies
from tests.interop.reference_runs import FOLDER, needs_folder, reference_cases, run_of


def read_all(texts: dict[str, str], name: str = "layer") -> tuple:
    """Return layer, architecture and mapping that files say."""
    architecture = read_architecture(texts["arch.yaml"])
    layer = read_problem(texts["problem.yaml"], name=name)
    return layer, architecture, read_mapping(texts["map.yaml"], layer, architecture)


def check_round_trip(layer, accelerator, mapping, machine, version="0.3") -> None:
    texts = write_timeloop(layer, accelerator, mapping, machine, version=version)
    found, architecture, read = read_all(texts, layer.name)
    assert found == layer
    assert architecture.version == version
    assert architecture.accelerator() == accelerator
    assert architecture.machine(machine) == machine
    assert mapping_to_json(read) == mapping_to_json(mapping)


def test_reference_runs_come_back():
    for case in reference_cases():
        check_round_trip(*run_of(case))


@pytest.mark.parametrize("rf_mode", ["shared", "split"])
def test_any_mapping_comes_back(rf_mode):
    """Layers and mappings that hypothesis draws, on a machine large enough for their tiles."""
    machine = MachineConfig(rf_mode=rf_mode)
    accelerator = Accelerator(64, 64, 1024, "row_stationary")
    compared = 0
    for data, levels in strategies.examples(strategies.mapped_layers(rf_mode, max_macs=120), 80):
        kind = data["type"]
        pairs = {name: tuple(data[name]) for name in ("stride", "dilation")}
        dims = {d: data[d] for d in "NKCPQRS"}
        layer = Layer("drawn", kind, **dims, **pairs, groups=data.get("groups", 1))
        try:
            check_round_trip(layer, accelerator, mapping_from_json(levels), machine, "0.4")
        except UserError as error:
            assert "words of 512" in str(error)  # the tiles are larger than any register file
        else:
            compared += 1
    assert compared > 60


# --- what Timeloop ran ------------------------------------------------------------------


@needs_folder
def test_every_architecture_that_timeloop_ran_is_read():
    dataflows = {"WS": "weight_stationary", "OS": "output_stationary", "RS": "row_stationary"}
    for path in sorted((FOLDER / "yaml" / "arch").glob("*.yaml")):
        short, sides, words, rf_mode = path.stem.split("_")
        found = read_architecture(path.read_text("utf-8"), path.name)
        assert f"{found.pe_x}x{found.pe_y}" == sides
        assert f"rf{found.rf_words}" == words
        assert found.is_split == (rf_mode == "split")
        machine = found.machine()
        assert (machine.global_buffer_kib, machine.global_buffer_words_per_cycle) == (128, 16.0)
        assert machine.dram_words_per_cycle is None
        # Only a row_stationary machine looks different.
        assert found.dataflow == ("row_stationary" if short == "RS" else None)
        accelerator = found.accelerator(dataflows[short])
        assert accelerator.rf_bytes == 2 * found.rf_words
        if short != "RS":
            with pytest.raises(UserError, match="does not say its dataflow"):
                found.accelerator()


@needs_folder
def test_every_problem_that_timeloop_ran_is_read():
    paths = sorted((FOLDER / "yaml" / "problems").glob("*.yaml"))
    layers = {c.layer["name"]: run_of(c)[0] for c in reference_cases() if "name" in c.layer}
    for path in paths:
        found = read_problem(path.read_text("utf-8"), path.name, name=path.stem)
        assert found.kind == ("depthwise" if "_dw" in path.stem else "conv")
        if path.stem in layers:
            assert found == dataclasses.replace(layers[path.stem], name=path.stem)
    assert len(paths) == 13


# --- other ways to say the same ---------------------------------------------------------

LAYER = Layer("conv", "conv", 1, 8, 6, 4, 4, 3, 3, stride=(2, 1))
MAPPING = [
    {"level": "dram", "temporal": [["K", 2], ["Q", 4]]},
    {
        "level": "global_buffer",
        "temporal": [["S", 3], ["P", 4]],
        "spatial_x": [["C", 6]],
        "spatial_y": [["K", 4]],
    },
    {"level": "register_file", "temporal": [["R", 3]]},
]
ARRAY = Accelerator(8, 4, 64, "weight_stationary")


def texts_of(layer=LAYER, accelerator=ARRAY, levels=MAPPING, machine=None) -> dict[str, str]:
    return write_timeloop(layer, accelerator, mapping_from_json(levels), machine or MachineConfig())


def edited(text: str, change) -> str:
    """Return a YAML text with its data changed in place."""
    data = yaml.safe_load(text)
    change(data)
    return yaml.safe_dump(data, sort_keys=False)


def test_other_spellings_are_read_alike():
    texts = texts_of()
    as_k = {
        name: text.replace("- M\n", "- K\n").replace("M:", "K:").replace("M=", "K=")
        for name, text in texts.items()
    }
    as_k["map.yaml"] = edited(
        as_k["map.yaml"],
        lambda d: [x.update(permutation=x["permutation"].replace("M", "K"))
                   for x in d["mapping"] if "permutation" in x],
    )  # fmt: skip
    new_names = dict(texts)
    new_names["problem.yaml"] = (
        texts["problem.yaml"].replace("data-spaces", "data_spaces").replace("d-w", "d_w")
    )
    new_names["arch.yaml"] = texts["arch.yaml"].replace("block-size", "block_size")

    def lists(data):
        for directive in data["mapping"]:
            if "factors" in directive:
                directive["factors"] = directive["factors"].split()
                directive["permutation"] = list(directive["permutation"])

    as_lists = texts | {"map.yaml": edited(texts["map.yaml"], lists)}

    def short(data):
        for directive in data["mapping"]:
            if "factors" in directive:
                factors = directive["factors"].split()
                directive["factors"] = " ".join(f for f in factors if not f.endswith("=1"))
                live = {f[0] for f in directive["factors"].split()}
                if directive["type"] == "temporal":
                    directive["permutation"] = "".join(
                        d for d in directive["permutation"] if d in live
                    )

    ones_left_out = texts | {"map.yaml": edited(texts["map.yaml"], short)}
    whole = texts | {"map.yaml": texts["map.yaml"].replace("R=3", "R=0")}
    renamed = {
        name: text.replace("shared_glb", "Scratch").replace("RF", "Registers")
        for name, text in texts.items()
    }
    quoted = texts | {"arch.yaml": texts["arch.yaml"].replace("version: 0.3", "version: '0.3'")}
    expected = read_all(texts)
    for other in (as_k, new_names, as_lists, ones_left_out, whole, quoted):
        assert read_all(other) == expected
    layer, architecture, mapping = read_all(renamed)
    assert (layer, mapping) == (expected[0], expected[2])
    assert architecture.levels["global_buffer"] == "Scratch"


def test_groups_of_one_channel_are_read_as_groups():
    """A depthwise layer may come as G groups with C = M = 1."""
    layer = Layer("dw", "conv", 1, 8, 1, 16, 16, 3, 3, groups=8)
    levels = [
        {"level": "dram", "temporal": [["G", 8], ["P", 16], ["Q", 16]]},
        {"level": "global_buffer", "temporal": [["R", 3], ["S", 3]]},
        {"level": "register_file", "temporal": []},
    ]
    found, _, mapping = read_all(texts_of(layer=layer, levels=levels), "dw")
    assert found == layer and found.macs == 18432
    assert mapping.levels[0].temporal == (("G", 8), ("P", 16), ("Q", 16))


# --- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.2", "0.5", "1", "None"])
def test_another_version_says_which_are_accepted(version):
    """A file of another version gets no message about some missing key."""
    text = texts_of()["arch.yaml"].replace("version: 0.3", f"version: {version}")
    with pytest.raises(
        UserError, match=rf"arch.yaml: version is '{version}'; accepted are 0.3, 0.4"
    ):
        read_architecture(text)


def test_the_front_end_s_form_says_what_is_accepted():
    text = "architecture:\n  version: 0.4\n  nodes:\n  - !Component\n    name: DRAM\n"
    with pytest.raises(UserError, match=r"arch.yaml: has `nodes`.*accepted are.*0.3, 0.4"):
        read_architecture(text)


def path_of(*keys):
    """Return a function that finds a node of nested data."""

    def find(data):
        for key in keys:
            data = data[key]
        return data

    return find


TREE = path_of("architecture", "subtree", 0)
DRAM = path_of("architecture", "subtree", 0, "local", 0, "attributes")
BUFFER = path_of("architecture", "subtree", 0, "subtree", 0, "local", 0, "attributes")
PE = path_of("architecture", "subtree", 0, "subtree", 0, "subtree", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("architecture"), "has no architecture"),
        (lambda d: TREE(d).update(subtree=[]), "a subtree is not a list of one node"),
        (lambda d: PE(d).update(name="PE[0..30]"), "31 instances do not form a mesh of 8 x 3"),
        (lambda d: PE(d).update(name="PE[3..0]"), "has no instances"),
        (lambda d: PE(d).update(name=7), "name 7 is not one such as"),
        (lambda d: PE(d)["local"].pop(), "0 kinds of compute"),
        (lambda d: PE(d)["local"][0].update({"class": "oven"}), "class 'oven'"),
        (lambda d: PE(d)["local"][0]["attributes"].update(meshX=4), "not side by side"),
        (lambda d: PE(d)["local"][0]["attributes"].update(memory_depth="32"), "'32', not a pos"),
        (lambda d: PE(d)["local"][0]["attributes"].pop("memory_depth"), "RF has no size"),
        (lambda d: PE(d)["local"][0]["attributes"].update({"word-bits": 8}), "words of 8 bits"),
        (lambda d: BUFFER(d).update(memory_depth=0), "memory_depth is 0, not a positive number"),
        (lambda d: BUFFER(d).update(memory_depth=1.5), "memory_depth is 1.5, not a whole number"),
        (lambda d: BUFFER(d).update({"multiple-buffering": 2}), "multiple_buffering is not"),
        (lambda d: BUFFER(d).update(read_bandwidth=8), "differ: not modelled"),
        (lambda d: BUFFER(d).update(shared_bandwidth=8), "shared_bandwidth is modelled at DRAM"),
        (lambda d: DRAM(d).update(read_bandwidth=8), "are modelled at shared_glb"),
        (lambda d: TREE(d)["local"].append(TREE(d)["local"][0]), "one DRAM above one"),
    ],
)  # fmt: skip
def test_an_architecture_that_is_none_of_ours_is_one_line(change, message):
    text = edited(texts_of()["arch.yaml"], change)
    with pytest.raises(UserError, match=message) as caught:
        read_architecture(text, "their arch.yaml")
    assert str(caught.value).startswith("their arch.yaml") and "\n" not in str(caught.value)


def test_an_architecture_that_holds_itself_ends():
    text = "architecture: &a\n  version: 0.3\n  name: x\n  subtree: [*a]\n"
    with pytest.raises(UserError, match="the tree is too deep"):
        read_architecture(text)


PROBLEM = path_of("problem")
SHAPE = path_of("problem", "shape")
INPUTS = path_of("problem", "shape", "data-spaces", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("problem"), "has no problem"),
        (lambda d: PROBLEM(d).update(instance=[1]), "instance is .*not a dict"),
        (lambda d: PROBLEM(d).update(shape="cnn-layer"), "'M' of the instance is not modelled"),
        (lambda d: PROBLEM(d)["instance"].update(M=0), "M is 0, not a positive integer"),
        (lambda d: PROBLEM(d)["instance"].update(M=-3), "M is -3, not a positive integer"),
        (lambda d: PROBLEM(d)["instance"].update(M="16"), "M is '16', not a positive integer"),
        (lambda d: PROBLEM(d)["instance"].update(M=True), "M is True, not a positive integer"),
        (lambda d: PROBLEM(d)["instance"].update(Wstride=0), "Wstride is 0"),
        (lambda d: PROBLEM(d)["instance"].update(densities={"Inputs": 0.5}), "'densities' of"),
        (lambda d: PROBLEM(d)["instance"].pop("C"), "C missing from the instance"),
        (lambda d: SHAPE(d)["dimensions"].append("Z"), "Z missing from the instance"),
        (lambda d: SHAPE(d)["dimensions"].pop(0), "'C' of the instance|projection of"),
        (lambda d: SHAPE(d)["coefficients"].pop(0), "'Wstride' of the instance is not modelled"),
        (lambda d: SHAPE(d)["data-spaces"].pop(), "has 2 data spaces, read-write none"),
        (lambda d: SHAPE(d)["data-spaces"][2].pop("read-write"), "3 data spaces, read-write none"),
        (lambda d: INPUTS(d).update(name="Weights"), "has 2 data spaces"),
        (lambda d: INPUTS(d)["projection"].pop(1), "dimension C indexes Weights, which"),
        (lambda d: INPUTS(d)["projection"][2].pop(), "dimension R indexes Weights, Inputs"),
        (lambda d: INPUTS(d)["projection"][1][0].append("Wstride"), "Inputs has C times 2"),
        (lambda d: INPUTS(d).update(projection="[n c]"), "projection of Inputs is .*not a list"),
        (lambda d: INPUTS(d)["projection"][1].append("C"), "projection of Inputs has 'C'"),
    ],
)  # fmt: skip
def test_a_problem_that_is_no_convolution_is_one_line(change, message):
    text = edited(texts_of()["problem.yaml"], change)
    with pytest.raises(UserError, match=message) as caught:
        read_problem(text, "their problem.yaml")
    assert str(caught.value).startswith("their problem.yaml") and "\n" not in str(caught.value)


def directive(target, kind):
    """Return a function that finds a directive."""

    def find(data):
        (found,) = [d for d in data["mapping"] if (d["target"], d["type"]) == (target, kind)]
        return found

    return find


IN_DRAM, IN_RF = directive("DRAM", "temporal"), directive("RF", "temporal")
IN_ARRAY, RF_KEEPS = directive("shared_glb", "spatial"), directive("RF", "bypass")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(mapping={}), "mapping is {}, not a list"),
        (lambda d: d["mapping"].append(3), "directive 3 is not an object"),
        (lambda d: IN_DRAM(d).update(target="DRMA"), "unknown level 'DRMA'; did you mean 'DRAM'"),
        (lambda d: IN_DRAM(d).update(type="skew"), "type 'skew' of a directive is not modelled"),
        (lambda d: d["mapping"].append(dict(IN_DRAM(d))), "temporal at DRAM is given twice"),
        (lambda d: IN_DRAM(d).update(factors="M=3 Q=4"), "factors of K multiply to 12.*has 8"),
        (lambda d: IN_DRAM(d).update(factors="M=2 Q=4 Z=2"), "the problem has no dimension 'Z'"),
        (lambda d: IN_DRAM(d).update(factors="M=2 M=2"), "M has two factors"),
        (lambda d: IN_DRAM(d).update(factors="M=2 Q=3,1"), "Q=3,1 is imperfect"),
        (lambda d: IN_DRAM(d).update(factors="M=-2"), "factors have"),
        (lambda d: IN_DRAM(d).update(factors=4), "factors are 4, not text"),
        (lambda d: IN_DRAM(d).update(permutation="Q"), "the permutation leaves out K"),
        (lambda d: IN_DRAM(d).update(permutation="QQ"), "has a dimension twice"),
        (lambda d: IN_DRAM(d).update(permutation=4), "permutation is 4, not text"),
        (lambda d: IN_DRAM(d).update(no_temporal_reuse=["Inputs"]), "no_temporal_reuse is not"),
        (lambda d: IN_ARRAY(d).update(split="1"), "split is '1', not a number"),
        (lambda d: IN_ARRAY(d).update(split=0), "uses 24 PEs on Y of 4"),
        (lambda d: IN_ARRAY(d).update(target="RF"), "spatial at RF: only the array"),
        (lambda d: RF_KEEPS(d).update(keep=["Weights"], bypass=["Inputs", "Outputs"]),
         "RF keeps Weights; modelled is that it keeps Weights, Inputs, Outputs"),
        (lambda d: RF_KEEPS(d).update(keep=["Biases"]), "keep is .*'Biases'.*, not a list"),
        (lambda d: (IN_RF(d).update(factors="R=3 P=4"),
                    directive("shared_glb", "temporal")(d).update(factors="S=3", permutation="S")),
         "tiles at register_file need"),
    ],
)  # fmt: skip
def test_a_mapping_that_is_none_is_one_line(change, message):
    texts = texts_of(accelerator=dataclasses.replace(ARRAY, rf_bytes=16))
    text = edited(texts["map.yaml"], change)
    architecture = read_architecture(texts["arch.yaml"])
    with pytest.raises(UserError, match=message) as caught:
        read_mapping(text, LAYER, architecture, "their map.yaml")
    assert str(caught.value).startswith("their map.yaml") and "\n" not in str(caught.value)


def test_a_level_that_only_splits_the_fan_out_stores_nothing():
    row = dataclasses.replace(ARRAY, dataflow="row_stationary")
    texts = texts_of(accelerator=row)
    architecture = read_architecture(texts["arch.yaml"])
    changes = {
        "DummyBuffer keeps Inputs, Outputs, Weights; modelled is that it keeps nothing": (
            lambda d: d["mapping"].remove(directive("DummyBuffer", "bypass")(d))
        ),
        "temporal at DummyBuffer: it stores nothing": (
            lambda d: directive("DummyBuffer", "temporal")(d).update(factors="R=3", permutation="R")
        ),
        "here are C on the other side": (
            lambda d: directive("shared_glb", "spatial")(d).update(split=0)
        ),
    }
    for message, change in changes.items():
        with pytest.raises(UserError, match=message):
            read_mapping(edited(texts["map.yaml"], change), LAYER, architecture)
    text = edited(texts["arch.yaml"], lambda d: BUFFER(d))
    for broken, message in (
        (
            text.replace("DummyBuffer[0..7]", "DummyBuffer[0..15]"),
            "does not split the array into X",
        ),
        (text.replace("dataflow: row_stationary", "dataflow: weight_stationary"), "dataflow is"),
    ):
        with pytest.raises(UserError, match=message):
            read_architecture(broken)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("problem: [", "not YAML of plain data"),
        ("problem: !!python/object/apply:os.getcwd []", "not YAML of plain data.*python"),
        ("problem: 1\nproblem: 2\n", "key 'problem' is given twice"),
        ("problem: \x00", "not YAML of plain data"),
        ("problem: 2020-13-45", "not YAML of plain data"),
        ("[" * 3000, "nested too deeply"),
        ("", "has no problem"),
        ("- 1\n- 2\n", "has no problem"),
    ],
)
def test_yaml_that_is_none_is_one_line(text, message):
    with pytest.raises(UserError, match=message) as caught:
        read_problem(text)
    assert str(caught.value).startswith("problem.yaml: ") and "\n" not in str(caught.value)


def nodes(data, path=()):
    """Yield the path of every node below the top of nested data."""
    for key in data if isinstance(data, dict) else range(len(data)):
        yield (*path, key)
        if isinstance(data[key], dict | list):
            yield from nodes(data[key], (*path, key))


JUNK = (None, 0, -1, 1.5, 10**30, float("nan"), True, "", "x", "M=2", [], [[]], [1], {}, {"a": 1})


@pytest.mark.slow
@pytest.mark.parametrize("dataflow", ["weight_stationary", "row_stationary"])
def test_any_node_may_be_anything(dataflow):
    """Each node of each file in turn replaced by junk or left out: read, or one line."""
    texts = texts_of(accelerator=dataclasses.replace(ARRAY, dataflow=dataflow))
    architecture = read_architecture(texts["arch.yaml"])
    readers = {
        "arch.yaml": lambda text: read_architecture(text).machine(),
        "problem.yaml": read_problem,
        "map.yaml": lambda text: read_mapping(text, LAYER, architecture),
    }
    num_refused = 0
    for name, reader in readers.items():
        for path in nodes(yaml.safe_load(texts[name])):
            for junk in (*JUNK, "left out"):
                data = yaml.safe_load(texts[name])
                parent = path_of(*path[:-1])(data)
                if junk == "left out":
                    del parent[path[-1]]
                else:
                    parent[path[-1]] = junk
                try:
                    reader(yaml.safe_dump(data))
                except UserError as error:
                    assert "\n" not in str(error)
                    num_refused += 1
    assert num_refused > 2000
