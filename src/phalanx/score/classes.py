"""Scores of predicted classes and numbers, as GLUE uses them (Wang et al., arXiv 1804.07461)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of predictions that are right, 0 to 1."""
    return float(np.mean(np.asarray(predicted) == np.asarray(labels)))


def f1(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Return F1 of class 1, the harmonic mean of its precision and recall; 0 without a true positive."""
    p, y = np.asarray(predicted) == 1, np.asarray(labels) == 1
    both = 2 * np.sum(p & y)
    return float(both / (p.sum() + y.sum())) if both else 0.0


def matthews(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Return Matthews' correlation of two classes or more (Gorodkin 2004), -1 to 1; 0 where either is constant."""
    p, y = np.asarray(predicted), np.asarray(labels)
    classes = np.union1d(p, y)
    return pearson_of((p[:, None] == classes).astype(float), (y[:, None] == classes).astype(float))


def pearson(predicted: ArrayLike, values: ArrayLike) -> float:
    """Return Pearson's correlation, -1 to 1; 0 where either is constant."""
    return pearson_of(np.asarray(predicted, dtype=float)[:, None], np.asarray(values, dtype=float)[:, None])


def pearson_of(x: Floats, y: Floats) -> float:
    """Return the correlation of two [n, columns], covariance and variances summed over columns; 0 where one is
    constant.
    """
    x, y = x - x.mean(0), y - y.mean(0)
    size = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / size) if size > 0 else 0.0


def spearman(predicted: ArrayLike, values: ArrayLike) -> float:
    """Return the correlation of ranks, -1 to 1; equal values share their mean rank."""
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
