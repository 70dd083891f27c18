"""Any Keras model as layers of the cost model, and the list of what these leave out.

Every call becomes layers, or stands in the list of what is not costed with the data that
it moves, or is refused by name. A call that multiplies and accumulates is never in the
list. Biases and the activation that a layer applies to its own output are neither
costed nor listed.

A batch normalisation right behind a convolution or dense layer without activation, whose
output nobody else reads, is folded into its weights and moves no data.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import keras

from dance_tf.errors import UserError
from dance_tf.files import Json
from dance_tf.interop.keras_calls import Call, Structure, first_line, record_calls
from dance_tf.interop.keras_layers import Unsupported, layers_of_call, macs_by_weights
from dance_tf.structs import Layer

__all__ = ["ConvertedModel", "NotCosted", "layers_of_keras_model"]

#: Sizes of the axes behind the batch, of one input or of several.
InputShape: TypeAlias = Sequence[int] | Sequence[Sequence[int]]

_AXES = {
    3: ("length",),
    4: ("height", "width"),
    5: ("depth", "height", "width"),
}


class NotCosted(NamedTuple):
    """A call that costs nothing here, and the data that it moves."""

    name: str
    layer_class: str
    words_moved: int  # elements read and written; 0 where it only hands on or is folded
    share_of_data_moved: float  # of all that the calls of the model read and write
    folded_into: str | None  # name of the call whose weights hold it


@dataclasses.dataclass(frozen=True)
class ConvertedModel:
    """A Keras model as layers that run one after the other."""

    name: str
    layers: tuple[Layer, ...]  # in the order in which they run, uniquely named
    not_costed: tuple[NotCosted, ...]
    num_parameters: int  # each counted once, however often it is used
    words_moved: int  # inputs, weights and outputs of all calls
    notes: tuple[str, ...]  # what was assumed

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layers."""
        return sum(layer.macs for layer in self.layers)


def layers_of_keras_model(
    model: keras.Model, input_shape: InputShape | None = None
) -> ConvertedModel:
    """Return a model as layers.

    >>> inputs = keras.Input((8, 8, 3))
    >>> outputs = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="first")(inputs)
    >>> found = layers_of_keras_model(keras.Model(inputs, outputs))
    >>> found.layers[0]
    Layer(name='first', kind='conv', N=1, K=4, C=3, P=4, Q=4, R=3, S=3, stride=(2, 2), ...)
    >>> found.macs
    1728

    Args:
        model: Functional, Sequential, or any other whose call can be followed.
        input_shape: Sizes of the axes behind the batch, such as (32, 32, 3), where the
            model leaves some open; a list of such, in the model's order, for several
            inputs. The batch is the model's own, or 1.
    Raises:
        UserError: If the model's input sizes are unknown, if `input_shape` does not fit,
            or if a call multiplies and accumulates in a way that cannot be costed; the
            message names it.
    """
    if not isinstance(model, keras.Model):
        raise UserError(f"not a Keras model but a {type(model).__name__}")
    inputs, notes = _inputs(model, input_shape)
    converted: dict[str, list[Layer]] = {}
    problems: dict[str, str] = {}

    def is_known(call: Call) -> bool:
        _check_sizes(model, call)
        shapes = [tuple(t.shape) for t in call.inputs]
        output = tuple(call.outputs[0].shape) if call.outputs else ()
        try:
            layers = layers_of_call(call.operation, call.name, shapes, output)
        except Unsupported as error:
            problems[call.name] = str(error)
            return True
        if layers:
            _check_macs(call, layers, macs_by_weights(call.operation, shapes, output))
            converted[call.name] = layers
        return layers is not None

    try:
        calls, outputs, found_notes = record_calls(model, inputs, is_known)
    except UserError:
        raise
    except Exception as error:  # Keras refuses shapes with errors of many kinds
        shapes = [list(t.shape) for t in keras.tree.flatten(inputs)]
        raise UserError(
            f"model {model.name!r} cannot be run on inputs of shape"
            f" {', '.join(map(str, shapes))}: {first_line(error)}"
        ) from None
    problems |= {call.name: call.problem for call in calls if call.problem}
    if problems:
        raise UserError(_refusal(model, calls, problems))
    layers = [layer for call in calls for layer in converted.get(call.name, ())]
    if not layers:
        raise UserError(f"model {model.name!r} has no layer that multiplies and accumulates")
    not_costed, words = _not_costed(calls, outputs, converted)
    return ConvertedModel(
        name=model.name,
        layers=tuple(layers),
        not_costed=tuple(not_costed),
        num_parameters=sum(math.prod(weight.shape) for weight in model.weights),
        words_moved=words,
        notes=(*notes, *found_notes),
    )


# Inputs


def _inputs(model: keras.Model, input_shape: InputShape | None) -> tuple[Structure, list[str]]:
    """Return symbolic inputs without open axes, and what was assumed for them."""
    given = _given_shapes(input_shape)
    own = _own_inputs(model)
    if own is None:
        if given is None:
            raise UserError(
                f"model {model.name!r} does not say what its inputs are: give input_shape"
                " (--input_shape)"
            )
        own = [keras.KerasTensor((None,) * (len(shape) + 1)) for shape in given]
        structure: Structure = own if len(own) > 1 else own[0]
        if isinstance(model, keras.Sequential) and len(given) == 1:
            model.build((None, *given[0]))  # for any batch, so that a later call may have another
    else:
        structure = own[0] if isinstance(model, keras.Sequential) else model.input
    if given is not None and len(given) != len(own):
        raise UserError(
            f"model {model.name!r} has {len(own)} inputs; input_shape gives {len(given)}"
        )
    notes: list[str] = []
    tensors = []
    for index, tensor in enumerate(own):
        shape = list(tensor.shape)
        # Keras numbers tensors that nobody named through the process.
        name = f"{index}" if re.fullmatch(r"keras_tensor\w*", tensor.name) else repr(tensor.name)
        where = f"model {model.name!r}: input {name} of shape {_shown(tensor.shape)}"
        if given is not None:
            fits = len(given[index]) == len(shape) - 1 and all(
                a is None or a == b for a, b in zip(shape[1:], given[index], strict=True)
            )
            if not fits:
                raise UserError(f"{where} cannot be {_shown(given[index])} behind the batch")
            shape[1:] = given[index]
        unknown = [axis for axis, size in enumerate(shape) if axis and size is None]
        if unknown:
            names = _AXES.get(len(shape), ()) if len(shape) - 2 == len(unknown) else ()
            raise UserError(
                f"{where} has no known size for axis {' and '.join(map(str, unknown))}"
                f"{' (' + ' and '.join(names) + ')' if names else ''}: give input_shape"
                " (--input_shape), the sizes behind the batch"
            )
        if shape and shape[0] is None:
            shape[0] = 1
            notes = ["the batch size is open and taken as 1"]
        tensors.append(keras.KerasTensor(tuple(shape), tensor.dtype))
    return keras.tree.pack_sequence_as(structure, tensors), notes


def _own_inputs(model: keras.Model) -> list[keras.KerasTensor] | None:
    """Return the inputs that a model declares; None where it declares none."""
    try:
        own = model.inputs
    except (AttributeError, ValueError):  # of a subclass, of a Sequential that is not built
        return None
    return keras.tree.flatten(own) if own else None


def _given_shapes(input_shape: Json) -> list[tuple[int, ...]] | None:
    """Return the sizes of each input, checked, as a user may give anything."""
    if input_shape is None:
        return None
    is_single = not input_shape or not isinstance(input_shape[0], Sequence)
    shapes = [tuple(shape) for shape in ([input_shape] if is_single else input_shape)]
    for size in (size for shape in shapes for size in shape):
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise UserError(f"input_shape is {input_shape!r}: {size!r} is not a positive integer")
    return shapes


def _shown(shape: Sequence[int | None] | None) -> str:
    if shape is None:
        return "not even that of its axes"
    return f"({', '.join('?' if size is None else str(size) for size in shape)})"


# Calls


def _check_sizes(model: keras.Model, call: Call) -> None:
    """Refuse a call with an axis whose size only the data tells."""
    for tensor in (*call.inputs, *call.outputs):
        if tensor.shape is None or None in tensor.shape:
            raise UserError(
                f"model {model.name!r}: layer {call.name!r} ({type(call.operation).__name__}) has"
                f" a tensor of unknown size, {_shown(tensor.shape)}"
            )


def _check_macs(call: Call, layers: Sequence[Layer], expected: int | None) -> None:
    """Hold layers to the count that Keras's own weights give."""
    macs = sum(layer.macs for layer in layers)
    if expected is not None and macs != expected:
        raise RuntimeError(
            f"layer {call.name!r} ({type(call.operation).__name__}) was read as {macs} MACs, but"
            f" its weights make {expected}"
        )


def _refusal(model: keras.Model, calls: Sequence[Call], problems: dict[str, str]) -> str:
    """Return the line that names all calls which cannot be costed."""
    refused = [
        (f"layer {call.name!r} ({type(call.operation).__name__})", problems[call.name])
        for call in calls
        if call.name in problems
    ]
    (first, cause), others = refused[0], [named for named, _ in refused[1:]]
    text = f"model {model.name!r}: {first} cannot be costed: {cause}"
    if others:
        shown = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
        text += f"; neither can {shown}"
    return text


def _not_costed(
    calls: Sequence[Call], outputs: Sequence[keras.KerasTensor], converted: dict[str, list[Layer]]
) -> tuple[list[NotCosted], int]:
    """Return what is not costed, and the words that all calls together move."""
    folded = _folded(calls, outputs, converted)
    words = {
        call.name: call.num_weights + _num_words(call)
        if call.moves_data and call.name not in folded
        else 0
        for call in calls
    }
    total = sum(words.values())
    entries = [
        NotCosted(
            name=call.name,
            layer_class=type(call.operation).__name__,
            words_moved=words[call.name],
            share_of_data_moved=words[call.name] / total,
            folded_into=folded.get(call.name),
        )
        for call in calls
        if call.name not in converted
        # Operators that only hand on what they are given are not worth a line.
        and (call.moves_data or isinstance(call.operation, keras.Layer))
    ]
    return entries, total


def _folded(
    calls: Sequence[Call], outputs: Sequence[keras.KerasTensor], converted: dict[str, list[Layer]]
) -> dict[str, str]:
    """Return the normalisations that weights can hold, with the call whose weights do."""
    # A tensor that is only handed on stands for the one it was.
    same: dict[int, int] = {}
    for call in calls:
        if not call.moves_data and call.inputs[0].shape == call.outputs[0].shape:
            source = id(call.inputs[0])
            same[id(call.outputs[0])] = same.get(source, source)
    producers = {id(t): call for call in calls for t in call.outputs if id(t) not in same}
    read = [t for call in calls if id(call.outputs[0]) not in same for t in call.inputs]
    num_readers = Counter(same.get(id(t), id(t)) for t in (*read, *outputs))
    found = []
    for call in calls:
        source = same.get(id(call.inputs[0]), id(call.inputs[0]))
        producer = producers.get(source)
        if (
            producer is not None
            and producer.name in converted
            and num_readers[source] == 1
            and _is_foldable(call.operation, producer.operation, len(call.inputs[0].shape))
        ):
            found.append((call, producer))
    # Weights that are used several times hold one normalisation, behind every use.
    uses = Counter(id(call.operation) for call in calls)
    pairs = Counter((id(call.operation), id(producer.operation)) for call, producer in found)
    return {
        call.name: producer.name
        for call, producer in found
        if pairs[id(call.operation), id(producer.operation)] == uses[id(producer.operation)]
    }


def _num_words(call: Call) -> int:
    return sum(math.prod(tensor.shape) for tensor in (*call.inputs, *call.outputs))


def _is_foldable(operation: keras.Operation, producer: keras.Operation, rank: int) -> bool:
    """Say whether a normalisation scales the channels that a layer has just computed."""
    if not isinstance(operation, keras.layers.BatchNormalization):
        return False
    if getattr(producer, "activation", None) not in (None, keras.activations.linear):
        return False
    is_first = getattr(producer, "data_format", None) == "channels_first"
    return operation.axis % rank == (1 if is_first else rank - 1)
