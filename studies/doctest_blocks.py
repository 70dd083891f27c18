"""Markdown extension of the manual: examples in docstrings (`>>> `) become code blocks."""

from __future__ import annotations

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor

__all__ = ["DoctestBlocks"]


class DoctestBlocks(Extension):
    """Fence every run of lines from one that begins with `>>> ` to the next empty one."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Come before the fences are read."""
        md.preprocessors.register(_Fence(md), "doctest_blocks", 40)


class _Fence(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        """Return the lines with fences; those in fences already stay as they are."""
        out: list[str] = []
        is_fenced, is_example = False, False
        for line in lines:
            if line.startswith("```"):
                is_fenced = not is_fenced
            if is_example and not line.strip():
                out.append("```")
                is_example = False
            elif line.startswith(">>> ") and not is_fenced and not is_example:
                out += ["", "```pycon"]
                is_example = True
            out.append(line)
        return [*out, "```"] if is_example else out
