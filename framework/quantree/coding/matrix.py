"""A leaf as a matrix: its last axis are the columns, all others the rows; a vector is one column."""

import math

import numpy as np


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a leaf of this shape."""
    return (math.prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (math.prod(shape), 1)


def matrix(values: np.ndarray) -> np.ndarray:
    """A view of an array as [rows, columns]."""
    return values.reshape(matrix_shape(values.shape))


def columns_first(values: np.ndarray) -> np.ndarray:
    """All elements, column by column: [rows x columns]."""
    return matrix(values).T.reshape(-1)


def columns_last(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `columns_first`."""
    rows, columns = matrix_shape(shape)
    return np.ascontiguousarray(values.reshape(columns, rows).T).reshape(shape)
