"""Polynomials whose coefficients are arrays: counts as functions of loops yet unknown.

The counts of a mapping are multilinear in the factors of the channel loops (K, C and
G): a channel loop moves no window, so it repeats or it adds, and never anything else.
Running the loop-nest analysis with such factors as variables gives, for one tiling of
the other loops, the counts of all tilings of the channels at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

__all__ = ["Polynomial", "add_up", "where"]

_Monomial = frozenset[str]


class Polynomial:
    """A sum of coefficient x product of distinct variables.

    Attributes:
        terms: Coefficient of each set of variables; arrays that broadcast.
        is_live: Of a single variable that is a loop's bound: whether it is above 1.
    """

    def __init__(self, terms: Mapping[_Monomial, Any], is_live: Any = None) -> None:
        self.terms = dict(terms)
        self.is_live = is_live

    @classmethod
    def variable(cls, name: str, is_live: Any = None) -> Polynomial:
        """Return the variable of a name."""
        return cls({frozenset([name]): 1.0}, is_live)

    def __add__(self, other: Any) -> Polynomial:
        return Polynomial(add_up([*self.terms.items(), *_terms(other)]))

    def __neg__(self) -> Polynomial:
        return self * -1.0

    def __sub__(self, other: Any) -> Polynomial:
        return self + (-other)

    def __rsub__(self, other: Any) -> Polynomial:
        return -self + other

    def __mul__(self, other: Any) -> Polynomial:
        products = []
        for left, a in self.terms.items():
            for right, b in _terms(other):
                if left & right:
                    raise ValueError(f"the square of {', '.join(left & right)} is not multilinear")
                products.append((left | right, _times(a, b)))
        return Polynomial(add_up(products))

    def __truediv__(self, other: Any) -> Polynomial:
        return Polynomial({monomial: a / other for monomial, a in self.terms.items()})

    def __gt__(self, other: Any) -> Any:
        """Compare the bound of a loop with 1: whether the loop is there."""
        if self.is_live is None or other != 1:
            raise ValueError("only the bound of a loop can be compared, and with 1")
        return self.is_live

    __radd__, __rmul__ = __add__, __mul__
    # An array on the left leaves the operation to the polynomial.
    __array_ufunc__ = None


def add_up(terms: Iterable[tuple[_Monomial, Any]]) -> dict[_Monomial, Any]:
    """Return the terms with the coefficients of each monomial added."""
    sums: dict[_Monomial, Any] = {}
    for monomial, coefficient in terms:
        sums[monomial] = sums[monomial] + coefficient if monomial in sums else coefficient
    return sums


def where(condition: Any, a: Any, b: Any) -> Any:
    """Return `a` where the condition holds and `b` elsewhere, arrays or polynomials."""
    if not isinstance(a, Polynomial) and not isinstance(b, Polynomial):
        return tf.where(condition, a, b)
    left, right = dict(_terms(a)), dict(_terms(b))
    return Polynomial(
        {
            monomial: tf.where(condition, left.get(monomial, 0.0), right.get(monomial, 0.0))
            for monomial in [*left, *(m for m in right if m not in left)]
        }
    )


def _terms(value: Any) -> Iterable[tuple[_Monomial, Any]]:
    if isinstance(value, Polynomial):
        return value.terms.items()
    return [(frozenset(), value)]


def _times(a: Any, b: Any) -> Any:
    if isinstance(a, float) and a == 1.0:
        return b
    if isinstance(b, float) and b == 1.0:
        return a
    return a * b
