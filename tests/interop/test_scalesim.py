"""The topology file, read as SCALE-Sim's releases read it, holds the layers' MACs."""

from __future__ import annotations

import pytest

from dance_tf.errors import UserError
from dance_tf.interop.scalesim import write_scalesim
from dance_tf.structs import Layer
from tests.interop.exported_layers import DILATED, LAYERS
from tests.interop.topology_twin import macs_of, read_topology

#: Those that have one stride for both directions, or need only one.
ONE_STRIDE = [(la, macs) for la, macs in LAYERS if la.stride[0] == la.stride[1] or la.Q == 1]


@pytest.mark.parametrize(("layer", "macs"), LAYERS)
def test_rows_hold_the_macs(layer: Layer, macs: int):
    layers = read_topology(write_scalesim([layer]), 8)
    assert sum(macs_of(values) for _, values in layers) == macs


@pytest.mark.parametrize(("layer", "macs"), ONE_STRIDE)
def test_rows_with_one_stride_hold_the_macs(layer: Layer, macs: int):
    layers = read_topology(write_scalesim([layer], version="3"), 7)
    assert sum(macs_of(values) for _, values in layers) == macs


def test_a_network_holds_the_macs_and_every_row_ends_in_a_comma():
    text = write_scalesim([layer for layer, _ in LAYERS])
    assert all(line.endswith(",") and line.count(",") == 9 for line in text.splitlines())
    assert text.endswith(",\n") and "\n\n" not in text
    total = sum(macs_of(values) for _, values in read_topology(text, 8))
    assert total == sum(macs for _, macs in LAYERS)
    # A reader that knows nothing of DP counts the same from the rows as they are.
    plain = [[int(v) for v in line.split(",")[1:-1]] for line in text.splitlines()[1:]]
    assert sum(map(macs_of, plain)) == total
    names = [line.split(",")[0] for line in text.splitlines()]
    assert len(set(names)) == len(names)


def test_both_strides_and_heights_first():
    """A 9x9 input, 3x3 filters, strides 1 down and 2 across: an output of 7x4."""
    layer = Layer("conv", "conv", 1, 4, 2, 4, 7, 3, 3, stride=(2, 1))
    text = write_scalesim([layer])
    assert text.splitlines()[0] == (
        "Layer name,IFMAP Height,IFMAP Width,Filter Height,Filter Width,Channels,Num Filter,"
        "Stride Height,Stride Width,"
    )
    assert text.splitlines()[1] == "conv,9,9,3,3,2,4,1,2,"
    assert macs_of(read_topology(text, 8)[0][1]) == 2016


def test_dense_layers_are_rows_too():
    layers = [Layer("fc", "conv", 64, 10, 16, 1, 1, 1, 1)]
    assert write_scalesim(layers).splitlines()[1] == "fc,64,1,1,1,16,10,1,1,"


def test_depthwise_is_one_row_per_layer_that_its_name_tells():
    layer = Layer("dw", "depthwise", 1, 8, 1, 16, 16, 3, 3)
    text = write_scalesim([layer])
    assert text.splitlines()[1:] == ["dw_DP,18,18,3,3,8,1,1,1,"]
    assert len(read_topology(text, 8)) == 8


def test_no_other_name_says_depthwise():
    layers = [
        Layer(name, "conv", 1, 2, 3, 4, 4, 1, 1) for name in ("DP", "ADP/1", "DDPP", "a,b\nc,", "")
    ]
    names = [name for name, _ in read_topology(write_scalesim(layers), 8)]
    assert names == ["Dp", "ADp/1", "DDpP", "a_b_c", "layer"]


@pytest.mark.parametrize(
    ("layers", "version", "message"),
    [
        ([DILATED[0]], "2", "layer 'dilated': SCALE-Sim has no dilation, here 2 along the width"),
        (
            [LAYERS[0][0]],
            "3",
            r"layer 'strides \(1, 2\)': version 3 .* one stride, here 1 along the height and 2",
        ),
        ([LAYERS[1][0]], "4", "version is '4'; accepted are 2, 3"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(layers, version, message):
    with pytest.raises(UserError, match=message):
        write_scalesim(layers, version=version)
