"""Layers as a ZigZag workload: the list of layers that ZigZag 3 reads from YAML.

Each layer is the loop nest that ZigZag's own ONNX importer makes of a convolution: B
images, G groups, K output and C input channels of one group, OX and OY outputs, FX and FY
filter taps. A depthwise layer has K = C = 1 and its channels as G. Padding is part of the
input. Every layer reads its input from outside: the list has no edges.
"""

from __future__ import annotations

from collections.abc import Sequence

from dance_tf.files import Json
from dance_tf.interop.yaml_text import format_yaml
from dance_tf.structs import Layer

__all__ = ["write_zigzag"]

_EQUATION = "O[b][g][k][oy][ox]+=W[g][k][c][fy][fx]*I[b][g][c][iy][ix]"

#: ZigZag's name of each of our loops.
_LOOPS = {"N": "B", "K": "K", "G": "G", "P": "OX", "Q": "OY", "C": "C", "R": "FX", "S": "FY"}


def write_zigzag(layers: Sequence[Layer], *, word_bits: int = 16) -> str:
    """Return the text of a workload YAML that holds the MACs of the layers, exactly.

    Args:
        layers: The network, in its order.
        word_bits: Bits of every operand, partial sums included, as in the cost model.
    """
    return format_yaml([_entry(index, layer, word_bits) for index, layer in enumerate(layers)])


def _entry(index: int, layer: Layer, word_bits: int) -> dict[str, Json]:
    bounds = dict(zip("NKCPQRSG", layer.loop_bounds, strict=True))
    (stride_x, stride_y), (dilation_x, dilation_y) = layer.stride, layer.dilation
    return {
        "id": index,
        "name": " ".join(layer.name.split()) or f"layer{index}",
        "operator_type": "Conv",
        "equation": _EQUATION,
        "dimension_relations": [
            f"ix={stride_x}*ox+{dilation_x}*fx",
            f"iy={stride_y}*oy+{dilation_y}*fy",
        ],
        "loop_dims": list(_LOOPS.values()),
        "loop_sizes": [bounds[name] for name in _LOOPS],
        "operand_precision": {name: word_bits for name in ("W", "I", "O", "O_final")},
        "operand_source": {"W": index, "I": index},
    }
