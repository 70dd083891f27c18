"""Flags whose values are paths of this machine."""

from __future__ import annotations

from typing import Any

from absl import flags

from dance_tf.config import DataConfig
from dance_tf.files import local_path, path_problem
from dance_tf.run.installation import or_shipped

__all__ = ["define_data", "define_path"]

#: Flags that name a trained model: `saved_models/NAME` is one that comes with dance_tf.
_TRAINED = ("supernet_dir", "evaluator_dir", "path")


class _PathParser(flags.ArgumentParser[str]):
    """Paths of this machine, made absolute; an empty one says nothing and stays."""

    syntactic_help = "a path"

    def __init__(self, is_trained: bool) -> None:
        self._find = or_shipped if is_trained else str

    def parse(self, argument: str) -> str:
        problem = path_problem(argument)
        if problem:
            raise ValueError(problem)
        return local_path(self._find(argument), "") if argument else ""


class _DataParser(_PathParser):
    """Paths, and the dotted names of builders, which stay as they are."""

    def __init__(self) -> None:
        super().__init__(is_trained=False)

    def parse(self, argument: str) -> str:
        return argument if DataConfig(path=argument).builder else super().parse(argument)


def define_path(
    name: str, help_text: str, values: flags.FlagValues, *, is_repeated: bool = False
) -> flags.FlagHolder[Any]:
    """Define a flag whose value, or each of whose values, is a path of this machine.

    A URL, a quote that is part of the name, an unknown user's `~` and a link to nowhere are
    refused as wrong flags. Values are absolute paths; None, or none, without the flag.
    """
    parser, serializer = _PathParser(name in _TRAINED), flags.ArgumentSerializer[str]()
    if is_repeated:
        return flags.DEFINE_multi(parser, serializer, name, [], help_text, values)
    return flags.DEFINE(parser, name, None, help_text, values, serializer)


def define_data(help_text: str, values: flags.FlagValues) -> None:
    """Define --data: a path, or the dotted name of a builder, which stays as it is."""
    flags.DEFINE(_DataParser(), "data", None, help_text, values, flags.ArgumentSerializer[str]())
