"""List the tools: `python -m dance_tf`. Imports neither them nor TensorFlow."""

from __future__ import annotations

import ast
import pathlib
import sys

from dance_tf.version import __version__

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Print version and tools; anything else that is asked for is the tools' own business."""
    if arguments and arguments[0] not in ("-h", "--help", "--version"):
        print(
            f"dance_tf: {arguments[0]!r} is no argument of this list: the tools run as"
            " `python -m tools.NAME --FLAG=VALUE`",
            file=sys.stderr,
        )
        return 2
    print(f"dance_tf {__version__}")
    if arguments[:1] == ["--version"]:
        return 0
    tools = _tools()
    width = max(map(len, tools))
    print("\nThe tools; `python -m tools.NAME --help` says more of each:\n")
    for name, line in tools.items():
        print(f"  {name:<{width}}  {line}")
    print("\nTo begin: python -m tools.search --preset=quick --output_dir=runs/first_look")
    return 0


def _tools() -> dict[str, str]:
    """Return the first line of the docstring of each tool, by its name."""
    found = {}
    for path in sorted((pathlib.Path(__file__).resolve().parents[1] / "tools").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "\nif __name__ == " in text:
            found[path.stem] = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
