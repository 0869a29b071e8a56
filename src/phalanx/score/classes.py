"""Scores of predicted classes and numbers, as GLUE uses them (Wang et al., arXiv 1804.07461)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """The share that is right."""
    return float(np.mean(np.asarray(predicted) == np.asarray(labels)))


def f1(predicted: ArrayLike, labels: ArrayLike) -> float:
    """F1 of class 1, the harmonic mean of its precision and recall; 0 without a true positive."""
    p, y = np.asarray(predicted) == 1, np.asarray(labels) == 1
    both = 2 * np.sum(p & y)
    return float(both / (p.sum() + y.sum())) if both else 0.0


def matthews(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Matthews' correlation of two classes or more (Gorodkin 2004); 0 where either is constant."""
    p, y = np.asarray(predicted), np.asarray(labels)
    classes = np.union1d(p, y)
    return pearson_of((p[:, None] == classes).astype(float), (y[:, None] == classes).astype(float))


def pearson(predicted: ArrayLike, values: ArrayLike) -> float:
    """Correlation; 0 where either is constant."""
    return pearson_of(np.asarray(predicted, dtype=float)[:, None], np.asarray(values, dtype=float)[:, None])


def pearson_of(one: Floats, other: Floats) -> float:
    """Correlation of two [n, columns], covariance and variances summed over the columns; 0 where one is constant."""
    one, other = one - one.mean(0), other - other.mean(0)
    size = np.sqrt((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / size) if size > 0 else 0.0


def spearman(predicted: ArrayLike, values: ArrayLike) -> float:
    """Correlation of ranks; equal values share their mean rank."""
    return pearson(_ranks(predicted), _ranks(values))


def _ranks(values: ArrayLike) -> Floats:
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts - 1) / 2)[place]
    return ranks


METRICS: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
