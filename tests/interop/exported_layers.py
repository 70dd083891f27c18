"""Layers of every kind that people export, with MACs counted by hand."""

from __future__ import annotations

from dance_tf.structs import Layer

#: Layer and its multiply-accumulates: outputs times taps times input channels of one group.
LAYERS = (
    (Layer("strides (1, 2)", "conv", 1, 4, 2, 4, 7, 3, 3, stride=(2, 1)), 7 * 4 * 4 * 2 * 9),
    (Layer("stem", "conv", 1, 64, 3, 112, 112, 7, 7, stride=(2, 2)), 112 * 112 * 64 * 3 * 49),
    (Layer("ADPconv", "conv", 1, 8, 4, 6, 6, 3, 3), 36 * 8 * 4 * 9),
    (Layer("dense", "conv", 1, 10, 1280, 1, 1, 1, 1), 12800),
    (Layer("dense", "conv", 5, 7, 12, 1, 1, 1, 1), 420),
    (Layer("dense of 8x8", "conv", 1, 10, 16, 8, 8, 1, 1), 10240),
    (Layer("depthwise", "depthwise", 1, 8, 1, 16, 16, 3, 3), 18432),
    (Layer("dw/of two", "depthwise", 2, 6, 1, 8, 8, 5, 5, stride=(2, 2)), 2 * 6 * 64 * 25),
    (Layer("multiplier", "conv", 1, 8, 1, 5, 5, 3, 3, stride=(2, 2), groups=4), 1800),
    (Layer("grouped", "conv", 1, 9, 2, 6, 6, 3, 3, groups=3), 5832),
    (Layer("grouped,batch", "conv", 2, 4, 3, 5, 4, 3, 1, groups=2), 2 * 4 * 3 * 20 * 3),
    (Layer("batch", "conv", 3, 9, 2, 6, 5, 3, 1), 3 * 9 * 2 * 30 * 3),
    (Layer("one-dimensional", "conv", 1, 9, 2, 50, 1, 5, 1, stride=(3, 1)), 9 * 2 * 50 * 5),
    (Layer("patches", "conv", 1, 96, 3, 14, 14, 16, 16, stride=(16, 16)), 96 * 3 * 196 * 256),
    (Layer("gaps", "conv", 1, 3, 2, 5, 4, 2, 2, stride=(3, 3)), 3 * 2 * 20 * 4),
    (Layer("strided point", "conv", 2, 3, 2, 5, 4, 1, 1, stride=(2, 2)), 2 * 3 * 2 * 20),
    (Layer("no taps to dilate", "conv", 1, 3, 2, 5, 4, 1, 1, dilation=(2, 2)), 120),
)
#: Only ZigZag and Timeloop know dilation.
DILATED = (Layer("dilated", "conv", 1, 3, 2, 5, 4, 3, 3, dilation=(2, 1)), 3 * 2 * 20 * 9)

assert all(layer.macs == macs for layer, macs in (*LAYERS, DILATED))
