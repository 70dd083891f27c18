"""YAML of other tools as plain data, both ways: no tags, no code, one line for a mistake.

Readers differ in what they take for a boolean: those of YAML 1.1 may read the dimension
N as false and Y as true. What is written here has such words in quotes.
"""

from __future__ import annotations

import re

import yaml

from dance_tf.errors import UserError
from dance_tf.files import Json, strict_data

__all__ = ["format_yaml", "parse_yaml"]


class _Dumper(yaml.SafeDumper):
    """Writes block style without anchors."""

    def ignore_aliases(self, data: Json) -> bool:
        return True


# Words that some reader may take for a boolean are no plain text, so they get quotes.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^[yYnN]$"), list("yYnN"))


class _Loader(yaml.SafeLoader):
    """Reads plain data, and refuses what PyYAML would pass over: a key given twice."""

    def construct_mapping(self, node: Json, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def format_yaml(data: Json, *, comment: str = "") -> str:
    """Return data as YAML text, keys in their order.

    Args:
        data: Data as `files.strict_data` takes them; numpy's numbers become plain ones.
        comment: Lines to put on top.
    """
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    plain = strict_data(data)
    return head + yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def parse_yaml(text: str, where: str) -> Json:
    """Return the plain data of a YAML text.

    Raises:
        UserError: If it is not YAML, or holds tags or a key twice; names `where` and the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not YAML of plain data: {_reason(error)}") from None
    except (ValueError, OverflowError) as error:  # a date or a number that is none
        raise UserError(f"{where}: not YAML of plain data: {error}") from None
    except RecursionError:
        raise UserError(f"{where}: not YAML of plain data: nested too deeply") from None


def _reason(error: yaml.YAMLError) -> str:
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    mark = getattr(error, "problem_mark", None)
    return (
        problem if mark is None else f"{problem} (line {mark.line + 1}, column {mark.column + 1})"
    )
