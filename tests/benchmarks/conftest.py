"""The made-up table of the evaluator's tests."""

from __future__ import annotations

from tests.evaluator.conftest import table as table
