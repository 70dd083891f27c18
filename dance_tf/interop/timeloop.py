"""Timeloop's words for our machine: names of levels, loops, operands and files.

The dialect is that of Timeloop and Accelergy 0.3: a tree of `subtree` and `local`, smart
buffers, and in row_stationary machines a `DummyBuffer` that stores nothing and splits the
fan-out into X, then Y. Version 0.4 is the same tree, as Timeloop's Python front end hands
it on; what that front end itself reads is another form.

Timeloop calls our output channels M; K and C of a grouped layer are those of one group on
both sides. A depthwise problem has no loop over output channels beside the one over channels.
"""

from __future__ import annotations

from dance_tf.errors import UserError
from dance_tf.structs import Layer

__all__ = [
    "ARCHITECTURE",
    "AREAS",
    "BLOCK_WORDS",
    "ENERGIES",
    "KEPT",
    "LEVELS",
    "MAPPING",
    "MAPPING_LEVELS",
    "OPERANDS",
    "PROBLEM",
    "SHAPES",
    "VERSIONS",
    "Y_LEVEL",
    "check_version",
    "input_coefficients",
    "loop_names",
    "problem_shape",
    "projections",
]

#: Versions of the dialect, the first being the default.
VERSIONS = ("0.3", "0.4")

#: The files of one evaluation, in the order of timeloop-model's arguments.
ARCHITECTURE, PROBLEM, MAPPING, ENERGIES, AREAS = (
    "arch.yaml",
    "problem.yaml",
    "map.yaml",
    "ERT.yaml",
    "ART.yaml",
)

#: Our level to Timeloop's.
LEVELS = {
    "dram": "DRAM",
    "global_buffer": "shared_glb",
    "register_file": "RF",
    "input_spad": "ifmap_spad",
    "weight_spad": "weights_spad",
    "psum_spad": "psum_spad",
}

#: Level that splits the fan-out of a row_stationary machine into X, then Y.
Y_LEVEL = "DummyBuffer"

#: Timeloop's data spaces.
OPERANDS = ("Weights", "Inputs", "Outputs")

#: Operands that a level keeps; the rest bypass it. A level that is not listed keeps all.
KEPT: dict[str, tuple[str, ...]] = {
    "input_spad": ("Inputs",),
    "weight_spad": ("Weights",),
    "psum_spad": ("Outputs",),
    Y_LEVEL: (),
}

#: Words that DRAM and global buffer move in one access.
BLOCK_WORDS = 4

#: Dimensions of each problem shape.
SHAPES = {
    "Conv": ("C", "M", "R", "S", "N", "P", "Q"),
    "DepthwiseConv": ("M", "R", "S", "N", "P", "Q"),
    "GroupedConv": ("C", "M", "R", "S", "N", "P", "Q", "G"),
}

#: Levels of a mapping by the number of register files in a PE.
MAPPING_LEVELS = {
    1: ("dram", "global_buffer", "register_file"),
    3: ("dram", "global_buffer", "input_spad", "weight_spad", "psum_spad"),
}


def check_version(version: str, where: str) -> str:
    """Return the version, or raise UserError with those that are accepted."""
    if version not in VERSIONS:
        raise UserError(f"{where}: version is {version!r}; accepted are {', '.join(VERSIONS)}")
    return version


def problem_shape(layer: Layer) -> tuple[str, tuple[str, ...]]:
    """Return name and dimensions of the problem shape of a layer."""
    if layer.kind == "depthwise":
        name = "DepthwiseConv"
    else:
        name = "GroupedConv" if layer.groups > 1 else "Conv"
    return name, SHAPES[name]


def loop_names(dimensions: tuple[str, ...]) -> dict[str, str]:
    """Return our loop to Timeloop's dimension, for the dimensions of a shape."""
    return {"K" if name == "M" else name: name for name in dimensions}


def projections(dimensions: tuple[str, ...]) -> dict[str, list[list[tuple[str, ...]]]]:
    """Return operand to its axes; an axis is a sum of (dimension,) or (dimension, coefficient)."""
    channel = "C" if "C" in dimensions else "M"
    width: list[tuple[str, ...]] = [("R", "Wdilation"), ("P", "Wstride")]
    height: list[tuple[str, ...]] = [("S", "Hdilation"), ("Q", "Hstride")]
    weights = [name for name in ("C", "M", "R", "S", "G") if name in dimensions]
    groups: list[list[tuple[str, ...]]] = [[("G",)]] if "G" in dimensions else []
    return {
        "Weights": [[(name,)] for name in weights],
        "Inputs": [[("N",)], [(channel,)], width, height, *groups],
        "Outputs": [[("N",)], [("M",)], [("Q",)], [("P",)], *groups],
    }


def input_coefficients(layer: Layer) -> dict[str, int]:
    """Return the problem's coefficients: stride and dilation of width and height."""
    return {
        "Wstride": layer.stride[0],
        "Hstride": layer.stride[1],
        "Wdilation": layer.dilation[0],
        "Hdilation": layer.dilation[1],
    }
