"""The calls that a Keras model makes, in order, seen by running it on shapes alone.

A model is called with symbolic tensors. What its layers then do goes through
`symbolic_call`, which is replaced meanwhile: so nested models, layers that are called
twice, operators between tensors and models with a `call` of their own look alike, and
only what is computed on the way from the model's inputs is seen.

Every call is traced as a TensorFlow graph of inference, what `predict` runs. The shapes
of the graph hold: Keras announces the outputs of some layers wrongly. Where a call is not
one that the cost model knows and no operation in it multiplies and accumulates, it is left
as it is; otherwise it is looked into, and where that is not possible it has a problem.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import keras
import tensorflow as tf

from dance_tf.errors import UserError

__all__ = ["Call", "Recording", "Structure", "first_line", "record_calls"]

#: TensorFlow operations that multiply and accumulate, or that hide what they do.
_PRODUCTS = re.compile(
    "MatMul|Conv|Einsum|Dot|RNN|LSTM|GRU|PyFunc|FFT|Xla|Cholesky|Svd|Qr$|Eig|Solve|"
    "MatrixInverse|Determinant|^Lu$|^Cross$"
)

#: TensorFlow operations that hand on what they are given.
_MOVES_NOTHING = {"Placeholder", "Const", "ReadVariableOp", "NoOp", "Identity", "StopGradient"}
_MOVES_NOTHING |= {"Cast", "Reshape", "Squeeze", "ExpandDims"}

#: Tensors and other values in tuples, lists and dictionaries.
Structure: TypeAlias = Any

_Call: TypeAlias = Callable[..., Structure]

_LOCK = threading.Lock()

_Shape = tuple[int | None, ...] | None  # of a tensor of Keras; None where even the rank is open


class Call(NamedTuple):
    """One call of a layer or operation that is not looked into."""

    operation: keras.Operation
    name: str  # path from the model, unique
    inputs: list[keras.KerasTensor]  # tensors and variables, in the order in which they were given
    outputs: list[keras.KerasTensor]
    num_weights: int  # of the layer itself
    moves_data: bool
    problem: str | None  # why it cannot be costed though it multiplies and accumulates


class Recording(NamedTuple):
    """Calls that a model was seen to make."""

    calls: list[Call]  # in the order in which they run
    outputs: list[keras.KerasTensor]  # of the model
    notes: list[str]  # calls whose outputs are not those that Keras announces


def record_calls(
    model: keras.Model, inputs: Structure, is_known: Callable[[Call], bool]
) -> Recording:
    """Return the calls that a model makes at inference.

    Args:
        model: The model; its weights are built if they are not.
        inputs: Symbolic tensors, structured as the model takes them.
        is_known: Returns whether it knows the products that a call computes, perhaps none.
    Raises:
        UserError: If a call returns another number of tensors than it announces.
    """
    recorder = _Recorder(model, is_known)
    recorder.watch(inputs)
    # Nothing is assigned; weights that are built on the way get their values at the end.
    scope = keras.StatelessScope(initialize_variables=not model.built)
    with _LOCK, scope, _plain_errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Keras, on the structure of a nested model's inputs
        with _replaced_symbolic_calls(recorder):
            outputs = model(inputs, training=False)
    return Recording(recorder.calls, keras.tree.flatten(outputs), recorder.notes)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Keep Keras from writing the arguments of every call on the way into an exception."""
    if not keras.config.is_traceback_filtering_enabled():
        yield
        return
    keras.config.disable_traceback_filtering()
    try:
        yield
    finally:
        keras.config.enable_traceback_filtering()


@contextlib.contextmanager
def _replaced_symbolic_calls(recorder: _Recorder) -> Iterator[None]:
    """Hand the calls that a recorder watches to it."""

    def replacement(original: _Call) -> _Call:
        def symbolic_call(
            operation: keras.Operation, *args: Structure, **kwargs: Structure
        ) -> Structure:
            if recorder.is_watching((args, kwargs)):
                return recorder.on_call(original, operation, args, kwargs)
            return original(operation, *args, **kwargs)

        return symbolic_call

    # In some versions of Keras a Layer has one of its own.
    owners = [c for c in (keras.Operation, keras.Layer) if "symbolic_call" in vars(c)]
    originals = [vars(owner)["symbolic_call"] for owner in owners]
    for owner, original in zip(owners, originals, strict=True):
        owner.symbolic_call = replacement(original)
    try:
        yield
    finally:
        for owner, original in zip(owners, originals, strict=True):
            owner.symbolic_call = original


class _Recorder:
    """Collects calls; looks into those that are not known and compute products."""

    def __init__(self, model: keras.Model, is_known: Callable[[Call], bool]) -> None:
        self.calls: list[Call] = []
        self.notes: list[str] = []
        self._model = model
        self._is_known = is_known
        self._watched: dict[
            int, keras.KerasTensor
        ] = {}  # tensors by id, kept so that no id comes again
        self._scope = ""
        self._names: set[str] = set()
        self._is_paused = False
        self._thread = threading.get_ident()

    def watch(self, tensors: Structure) -> None:
        """Regard tensors as stemming from the model's inputs."""
        self._watched.update((id(t), t) for t in keras.tree.flatten(tensors))

    def is_watching(self, arguments: Structure) -> bool:
        """Say whether a call with these arguments is one of the model's own."""
        if self._is_paused or threading.get_ident() != self._thread:
            return False
        return any(id(t) in self._watched for t in keras.tree.flatten(arguments))

    def on_call(
        self, original: _Call, operation: keras.Operation, args: Structure, kwargs: Structure
    ) -> Structure:
        """Record one call, or look into it, and return its outputs."""
        name = self._unique_name(operation)
        if isinstance(operation, keras.Model):
            outputs = self._inside(name, operation, args, kwargs)
        else:
            outputs = self._leaf_or_inside(original, name, operation, args, kwargs)
        self.watch(outputs)
        return outputs

    def _leaf_or_inside(
        self,
        original: _Call,
        name: str,
        operation: keras.Operation,
        args: Structure,
        kwargs: Structure,
    ) -> Structure:
        self._is_paused = True
        try:
            announced = original(operation, *args, **kwargs)
            graph = _trace(operation, args, kwargs)
            outputs = self._as_traced(name, operation, announced, graph)
            call = Call(
                operation=operation,
                name=name,
                inputs=_with_shape((args, kwargs)),
                outputs=_with_shape(outputs),
                num_weights=sum(math.prod(w.shape) for w in getattr(operation, "weights", ())),
                moves_data=True,
                problem=None,
            )
            if self._is_known(call):
                self.calls.append(call)
                return outputs
            types = _tensorflow_operations(graph)
        finally:
            self._is_paused = False
        products = sorted(filter(_PRODUCTS.search, types or ()))
        if types is not None and not products:
            self.calls.append(call._replace(moves_data=not types <= _MOVES_NOTHING))
            return outputs
        num_calls = len(self.calls)
        cause = f"it computes {', '.join(products)}" if products else "it cannot be traced"
        try:
            if isinstance(operation, keras.layers.RNN):
                cause = "it is recurrent"
            elif isinstance(operation, keras.layers.TimeDistributed):
                self._inside_all_steps(name, operation, call.inputs[0])
                return outputs
            elif isinstance(operation, keras.Layer):
                return self._inside(name, operation, args, kwargs)
        except UserError:
            raise
        except Exception as error:  # whatever the code of a layer may raise
            cause += f", and its call cannot be followed: {first_line(error)}"
        del self.calls[num_calls:]
        self.calls.append(call._replace(problem=cause))
        return outputs

    def _as_traced(
        self,
        name: str,
        operation: keras.Operation,
        announced: Structure,
        function: tf.types.experimental.ConcreteFunction | None,
    ) -> Structure:
        """Return announced outputs with the sizes that a traced call gives them."""
        if function is None:
            return announced
        named = f"layer {name!r} ({type(operation).__name__})"
        tensors = _with_shape(announced)
        traced = [t.shape for t in _with_shape(function.structured_outputs)]
        if len(traced) != len(tensors):
            raise UserError(
                f"model {self._model.name!r}: {named} announces {len(tensors)} outputs and"
                f" returns {len(traced)}"
            )
        shapes = [
            _merged(tensor.shape, shape) for tensor, shape in zip(tensors, traced, strict=True)
        ]
        if shapes == [t.shape for t in tensors]:
            return announced
        for tensor, shape in zip(tensors, shapes, strict=True):
            if not _is_filled_in(tensor.shape, shape):
                self.notes.append(
                    f"{named} returns {shape} at inference where Keras announces"
                    f" {tensor.shape}: costed is what it returns"
                )
        sized = [
            keras.KerasTensor(shape, tensor.dtype)
            for tensor, shape in zip(tensors, shapes, strict=True)
        ]
        return keras.tree.pack_sequence_as(announced, sized)

    def _inside(
        self, name: str, operation: keras.Operation, args: Structure, kwargs: Structure
    ) -> Structure:
        """Run a layer's own call, so that what it calls is recorded."""
        outer, self._scope = self._scope, "" if operation is self._model else f"{name}/"
        try:
            return operation.call(*args, **kwargs)
        finally:
            self._scope = outer

    def _inside_all_steps(
        self, name: str, operation: keras.Operation, tensor: keras.KerasTensor
    ) -> None:
        """Run the layer of a TimeDistributed once, with the steps as a part of the batch."""
        batch, steps, *rest = tensor.shape
        flat = keras.KerasTensor((batch * steps, *rest), tensor.dtype)
        self.watch(flat)
        outer, self._scope = self._scope, f"{name}/"
        try:
            operation.layer(flat)
        finally:
            self._scope = outer

    def _unique_name(self, operation: keras.Operation) -> str:
        own = operation.name
        if not isinstance(operation, keras.Layer):
            # Keras numbers operations through the process; the class alone is stable.
            own = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(operation).__name__).lower()
        name, count = self._scope + own, 1
        while name in self._names:
            count += 1
            name = f"{self._scope}{own}@{count}"
        self._names.add(name)
        return name


def _with_shape(structure: Structure) -> list[keras.KerasTensor]:
    return [t for t in keras.tree.flatten(structure) if hasattr(t, "shape")]


def _trace(operation: keras.Operation, args: Structure, kwargs: Structure) -> Structure:
    """Return a call as a concrete TensorFlow function; None if it cannot be traced."""
    flat = keras.tree.flatten((args, kwargs))
    symbolic = [i for i, value in enumerate(flat) if isinstance(value, keras.KerasTensor)]

    def run(*tensors: tf.Tensor) -> Structure:
        values = list(flat)
        for i, tensor in zip(symbolic, tensors, strict=True):
            values[i] = tensor
        own_args, own_kwargs = keras.tree.pack_sequence_as((args, kwargs), values)
        return operation.call(*own_args, **own_kwargs)

    specs = [tf.TensorSpec(flat[i].shape, flat[i].dtype) for i in symbolic]
    try:
        return tf.function(run, autograph=False).get_concrete_function(*specs)
    except Exception:  # whatever the code of a layer may raise
        return None


def _merged(announced: _Shape, traced: tf.TensorShape) -> _Shape:
    """Return the traced sizes, and the announced ones where a trace leaves them open."""
    if traced.rank is None:
        return announced
    sizes = tuple(traced.as_list())
    if announced is None or len(sizes) != len(announced):
        return sizes
    return tuple(a if t is None else t for a, t in zip(announced, sizes, strict=True))


def _is_filled_in(announced: _Shape, shape: _Shape) -> bool:
    """Say whether a shape is the announced one where that is known."""
    if announced is None or shape is None:
        return True
    return len(announced) == len(shape) and all(
        a in (None, b) for a, b in zip(announced, shape, strict=True)
    )


def _tensorflow_operations(
    function: tf.types.experimental.ConcreteFunction | None,
) -> set[str] | None:
    """Return the types of the operations in a traced call."""
    if function is None:
        return None
    definition = function.graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    return {node.op for node in nodes}


def first_line(error: BaseException) -> str:
    """Return what an exception says, as one line of a readable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    if text.startswith("A KerasTensor cannot be used as input to a TensorFlow function"):
        return "it hands symbolic tensors to functions of TensorFlow, not of keras.ops"
    return text if len(text) <= 300 else f"{text[:300]} ..."
