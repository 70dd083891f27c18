"""Timeloop problems in the forms that are about: equal meaning is read, another is refused."""

from __future__ import annotations

import math

import pytest
import yaml

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.hardware.loopnest.mapping import mapping_from_json, mapping_to_json
from dance_tf.interop.timeloop_architecture import read_architecture
from dance_tf.interop.timeloop_problem import problem_names, read_problem
from dance_tf.interop.timeloop_read import read_mapping
from dance_tf.interop.timeloop_write import write_timeloop
from dance_tf.structs import Accelerator, Layer

COEFFICIENTS = """
    coefficients:
      - {name: Wstride, default: 1}
      - {name: Hstride, default: 1}
      - {name: Wdilation, default: 1}
      - {name: Hdilation, default: 1}"""
SLIDING = "[[R, Wdilation], [P, Wstride]], [[S, Hdilation], [Q, Hstride]]"

DEPTHWISE = f"""problem:
  shape:
    name: CNN-Layer
    dimensions: [C, R, S, N, P, Q]{COEFFICIENTS}
    data-spaces:
      - {{name: Weights, projection: [[[C]], [[R]], [[S]]]}}
      - {{name: Inputs, projection: [[[N]], [[C]], {SLIDING}]}}
      - {{name: Outputs, projection: [[[N]], [[C]], [[Q]], [[P]]], read-write: True}}
  instance: {{C: 12, R: 3, S: 3, N: 1, P: 6, Q: 5}}
"""

CONV = f"""problem:
  shape:
    dimensions: [C, M, R, S, N, P, Q]{COEFFICIENTS}
    data-spaces:
      - {{name: Weights, projection: [[[C]], [[M]], [[R]], [[S]]]}}
      - {{name: Inputs, projection: [[[N]], [[C]], {SLIDING}]}}
      - {{name: Outputs, projection: [[[N]], [[M]], [[Q]], [[P]]], read-write: True}}
  instance: {{C: 3, M: 8, R: 3, S: 5, N: 2, P: 6, Q: 7, Wstride: 2}}
"""

GEMM = """problem:
  shape: gemm-ABZ
  instance: {M: 7, N: 9, K: 5}
"""


def edited(text: str, change) -> str:
    data = yaml.safe_load(text)
    change(data["problem"])
    return yaml.safe_dump(data)


def counted(text: str) -> int:
    """Return the product of all bounds: a MAC for each point of the nest."""
    problem = yaml.safe_load(text)["problem"]
    instance = problem.get("instance", problem)
    return math.prod(instance[dim] for dim in problem["shape"]["dimensions"])


def test_a_depthwise_layer_may_call_its_channels_c():
    found = read_problem(DEPTHWISE, name="dw")
    assert found == Layer("dw", "depthwise", 1, 12, 1, 6, 5, 3, 3)
    assert found.macs == 12 * 6 * 5 * 3 * 3 == 3240


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p["instance"].update(Groups=1),
        lambda p: p["instance"].update(G=1),
        lambda p: p["instance"].update(Hdilation=1),
        lambda p: p["instance"].update(W=11, H=11, Wpad=0, Hpad=0),
        lambda p: p["instance"].update(densities={"Weights": 1.0, "Inputs": 1, "Outputs": 1}),
        lambda p: p["instance"].update(commonDensity=1.0),
        lambda p: p["instance"].update(
            densities={"Inputs": {"distribution": "fixed", "density": 1.0}}
        ),
        lambda p: p["shape"].update(name="anything"),
        lambda p: p["shape"]["dimensions"].reverse(),
        lambda p: p["shape"]["data-spaces"].reverse(),
        lambda p: p["shape"]["data-spaces"][1]["projection"].reverse(),
        lambda p: p["shape"]["data-spaces"][2].update(projection=["N", "M", "Q", "P"]),
        lambda p: p["shape"]["data-spaces"][1].update(name="layer_0_in"),
        lambda p: (p["shape"]["data-spaces"][0].update(name="filter_3"),
                   p["shape"]["data-spaces"][1].update(name="fmap_2"),
                   p["shape"]["data-spaces"][2].update(name="fmap_3")),
        lambda p: p["shape"].update(data_spaces=p["shape"].pop("data-spaces")),
        lambda p: p["shape"].update(flatten=[]),
        lambda p: [c.pop("default") for c in p["shape"]["coefficients"]],
        lambda p: p.update(p.pop("instance")),
        lambda p: p.update(version=0.4),
    ],
)  # fmt: skip
def test_equal_spellings_are_the_same_layer(change):
    expected = Layer("conv", "conv", 2, 8, 3, 6, 7, 3, 5, stride=(2, 1))
    assert read_problem(CONV, name="conv") == expected
    assert read_problem(edited(CONV, change), name="conv") == expected
    assert expected.macs == counted(CONV) == 3 * 8 * 3 * 5 * 2 * 6 * 7


@pytest.mark.parametrize("name", ["cnn-layer", "cnn_layer", "cnn-layer.yaml", None])
def test_a_shape_that_timeloop_brings(name):
    """Bounds beside the shape are the older form, and no shape is that of a convolution."""
    line = f"  shape: {name}\n" if name else ""
    text = f"problem:\n{line}  R: 3\n  S: 5\n  P: 6\n  Q: 7\n  C: 3\n  K: 8\n  N: 2\n  Wstride: 2\n"
    assert read_problem(text, name="conv") == read_problem(CONV, name="conv")


def test_other_letters_are_what_their_projections_say():
    def rename(problem):
        text = yaml.safe_dump(problem)
        for old, new in {"C": "X", "M": "Y", "R": "A", "S": "B", "P": "E", "Q": "F"}.items():
            text = text.replace(f"- {old}\n", f"- {new}\n").replace(f"  {old}:", f"  {new}:")
        problem.clear()
        problem.update(yaml.safe_load(text))

    text = edited(CONV, rename)
    assert yaml.safe_load(text)["problem"]["shape"]["dimensions"] == list("XYABNEF")
    assert read_problem(text, name="conv") == read_problem(CONV, name="conv")
    assert problem_names(text).loops == {
        "X": "C", "Y": "K", "A": "R", "B": "S", "N": "N", "E": "P", "F": "Q",
    }  # fmt: skip


def test_dimensions_that_a_problem_leaves_out_are_one():
    text = """problem:
  shape:
    name: Conv1D_OC
    dimensions: [C, K, R, P]
    data-spaces:
      - {name: Weights, projection: [[[C]], [[K]], [[R]]]}
      - {name: Inputs, projection: [[[C]], [[R], [P]]]}
      - {name: Outputs, projection: [[[K]], [[P]]], read-write: True}
  instance: {C: 32, K: 16, R: 3, P: 18}
"""
    found = read_problem(text, name="line")
    assert found == Layer("line", "conv", 1, 16, 32, 18, 1, 3, 1)
    assert found.macs == counted(text)


def test_a_product_of_two_matrices_is_a_layer():
    """As x @ weights: rows of the first matrix are positions, columns of the second channels."""
    found = read_problem(GEMM, name="matmul")
    assert found == Layer("matmul", "conv", 1, 9, 5, 7, 1, 1, 1)
    assert found.macs == 7 * 9 * 5
    names = problem_names(GEMM)
    assert names.loops == {"M": "P", "N": "K", "K": "C"}
    assert names.operands == {"A": "Inputs", "B": "Weights", "Z": "Outputs"}


def test_groups_with_one_channel_each_stay_groups():
    def grouped(problem):
        problem["shape"]["dimensions"].append("G")
        for space in problem["shape"]["data-spaces"]:
            space["projection"].append([["G"]])
        problem["instance"]["G"] = 4

    found = read_problem(edited(CONV, grouped), name="grouped")
    assert (found.groups, found.K, found.C) == (4, 4 * 8, 3)
    assert found.macs == counted(edited(CONV, grouped))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["instance"].update(Groups=2), "'Groups' of the instance is not modelled"),
        (lambda p: p["instance"].update(Wstrid=2), "'Wstrid' of the instance is not modelled"),
        (lambda p: p["instance"].update(commonDensity=0.5), "'commonDensity' .*: all is dense"),
        (lambda p: p.update(shape="their-layer"), "'their-layer' is in another file"),
        (lambda p: p["shape"].update(flatten=[{"name": "X"}]), "flatten of the shape"),
        (lambda p: p["shape"]["data-spaces"][0]["projection"].append([["N"]]),
         "dimension N indexes Weights, Inputs, Outputs|adds up"),
        (lambda p: p["shape"]["data-spaces"][1]["projection"].append([["C"]]), "C.* twice|twice"),
        (lambda p: p["shape"]["data-spaces"][1].update(
            projection=[[["N"]], [["C"]], [["R"], ["P"], ["S"], ["Q"]]]), "adds up R, P, S, Q"),
    ],
)  # fmt: skip
def test_what_changes_the_meaning_is_refused(change, message):
    if "dimension N" in message:  # weights of their own for each image: groups beside channels
        found = read_problem(edited(CONV, change))
        assert (found.groups, found.N) == (2, 1) and found.macs == counted(CONV)
        return
    with pytest.raises(UserError, match=message):
        read_problem(edited(CONV, change))


# --- mappings in the names of their problem -----------------------------------------------


def test_a_mapping_may_name_the_channels_of_a_depthwise_layer_c():
    layer = read_problem(DEPTHWISE, name="dw")
    levels = [
        {"level": "dram", "temporal": [["K", 6], ["P", 6]]},
        {"level": "global_buffer", "temporal": [["Q", 5]], "spatial_x": [["K", 2]]},
        {"level": "register_file", "temporal": [["R", 3], ["S", 3]]},
    ]
    accelerator = Accelerator(8, 8, 64, "weight_stationary")
    texts = write_timeloop(layer, accelerator, mapping_from_json(levels), MachineConfig())
    architecture = read_architecture(texts["arch.yaml"])
    mapping = yaml.safe_load(texts["map.yaml"])
    for directive in mapping["mapping"]:
        for key in ("factors", "permutation"):
            if key in directive:
                directive[key] = directive[key].replace("M", "C")
        if directive["type"] == "bypass":
            directive["type"] = "dataspace"
        directive["no_temporal_reuse"] = []
    text = yaml.safe_dump(mapping)
    for names in (None, problem_names(DEPTHWISE)):
        found = read_mapping(text, layer, architecture, names=names)
        assert mapping_to_json(found) == mapping_to_json(mapping_from_json(levels))


def test_a_mapping_of_matrices_is_read_in_their_names():
    layer = read_problem(GEMM, name="matmul")
    accelerator = Accelerator(8, 8, 64, "weight_stationary")
    text = """mapping:
  - {target: DRAM, type: temporal, factors: M7 N1 K1, permutation: MNK}
  - {target: shared_glb, type: spatial, factors: M1 N1 K5, permutation: KMN, split: 1}
  - {target: shared_glb, type: temporal, factors: M1 N3 K1, permutation: NMK}
  - {target: RF, type: temporal, factors: M1 N3 K1, permutation: NMK}
  - {target: RF, type: datatype, keep: [A, B, Z]}
"""
    levels = [
        {"level": "dram", "temporal": [["P", 7]]},
        {"level": "global_buffer", "temporal": [["K", 3]], "spatial_x": [["C", 5]]},
        {"level": "register_file", "temporal": [["K", 3]]},
    ]
    arch = write_timeloop(layer, accelerator, mapping_from_json(levels), MachineConfig())
    architecture = read_architecture(arch["arch.yaml"])
    found = read_mapping(text, layer, architecture, names=problem_names(GEMM))
    assert mapping_to_json(found) == mapping_to_json(mapping_from_json(levels))


@pytest.mark.parametrize(
    ("attribute", "value", "is_read"),
    [
        ("multiple-buffering", 1, True),
        ("multiple-buffering", 2, False),
        ("min_utilization", 0, True),
        ("min_utilization", 0.5, False),
        ("allow_overbooking", False, True),
        ("network_fill_latency", 0, True),
    ],
)
def test_attributes_of_an_architecture_that_change_nothing_are_read(attribute, value, is_read):
    layer = read_problem(GEMM, name="matmul")
    levels = [
        {"level": "dram", "temporal": [["P", 7], ["K", 9], ["C", 5]]},
        {"level": "global_buffer", "temporal": []},
        {"level": "register_file", "temporal": []},
    ]
    accelerator = Accelerator(8, 8, 64, "weight_stationary")
    texts = write_timeloop(layer, accelerator, mapping_from_json(levels), MachineConfig())
    data = yaml.safe_load(texts["arch.yaml"])
    buffer = data["architecture"]["subtree"][0]["subtree"][0]["local"][0]
    buffer["attributes"][attribute] = value
    if is_read:
        expected = read_architecture(texts["arch.yaml"])
        assert read_architecture(yaml.safe_dump(data)) == expected
    else:
        with pytest.raises(UserError, match="is not modelled"):
            read_architecture(yaml.safe_dump(data))
