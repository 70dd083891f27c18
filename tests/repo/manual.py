"""The files of the manual, README.md and docs/, as the tests read them."""

from __future__ import annotations

import re

from tests.repo.source import ROOT, repository_files

__all__ = ["DOCUMENTS", "MANUAL", "code_blocks", "headings", "read"]

#: All Markdown files of the repository, and those that a reader of the manual reads.
DOCUMENTS = tuple(path for path in repository_files() if path.endswith(".md"))
MANUAL = tuple(path for path in DOCUMENTS if path == "README.md" or path.startswith("docs/"))


def read(path: str) -> str:
    """Return the text of a file of the repository."""
    return (ROOT / path).read_text(encoding="utf-8")


def code_blocks(path: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", read(path), re.DOTALL | re.MULTILINE)


def headings(path: str) -> set[str]:
    """Return the anchors of a file's headings."""
    lines = re.findall(r"^#+ (.*)$", read(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in lines}
