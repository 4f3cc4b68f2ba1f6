"""The module that owns an array (NumPy or CuPy), and transfers between the host and a GPU.

The rest of the package calls `array_module` once per call and then uses plain array code: the same lines run under
NumPy and under CuPy. This is the only file that names CuPy. CuPy is imported only when a GPU is requested.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy

from .trees import map_leaves

# or a cupy.ndarray, which type checkers see as Any; all arrays of a call are of one kind
Array = numpy.ndarray[Any, numpy.dtype[Any]]

SMALL_SUM = 10**7  # multiplications up to which the one-hot form of scatter_add is faster
FREQUENT = 16  # values of a row from which on their product with ones is faster than adding them one by one

OLDEST_CUPY = (13, 4)
INSTALL = "install the CuPy that fits your driver: pip install cupy-cuda12x (CUDA 12) or cupy-cuda13x (CUDA 13)"
MIXED = (
    "{first} is on the {first_place} and {other} on the {other_place}; all arrays of a call must be in one place: "
    'move them with to_device(tree, "cuda") or to_host(tree)'
)


def is_device_array(value: object) -> bool:
    """Return whether `value` is a CuPy array. CuPy is used only if something else has already imported it."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(value, cupy.ndarray)


def array_module(**arrays: Array) -> ModuleType:
    """Return the module (numpy or cupy) that owns all of the named arrays.

    Raises TypeError for a value that is not a plain array, and for arrays that live in different places.
    """
    for value in arrays.values():  # takes half the time of the loop below, in every call of every layer
        if type(value) is not numpy.ndarray:
            break
    else:
        return numpy
    first, first_place = "", ""
    for name, value in arrays.items():
        if isinstance(value, numpy.ndarray):
            if type(value) is not numpy.ndarray:
                _refuse_special(name, value)
            place = "host (NumPy)"
        elif is_device_array(value):
            place = f"GPU {value.device.id} (CuPy)"
        else:
            raise TypeError(
                f"{name}: expected a NumPy or CuPy array, got {type(value).__name__}; convert it with numpy.asarray"
            )
        if first and place != first_place:
            raise TypeError(MIXED.format(first=first, first_place=first_place, other=name, other_place=place))
        first, first_place = first or name, place
    return sys.modules["cupy"] if first_place.startswith("GPU") else numpy


def _refuse_special(name: str, value: numpy.ndarray) -> None:
    """Raise TypeError for a masked array or numpy.matrix, whose operators have other meanings."""
    if isinstance(value, numpy.ma.MaskedArray):
        raise TypeError(f"{name}: expected a plain array, got a masked one; its mask would be lost: use .filled(value)")
    if isinstance(value, numpy.matrix):
        raise TypeError(f"{name}: expected a plain array, got a numpy.matrix; convert it with numpy.asarray")


def to_device(tree: Any, device: str) -> Any:
    """Copy every array in `tree` (dicts, lists, tuples, named tuples, arrays, None) to `device`, "cpu" or "cuda".

    Raises ValueError for another device name, RuntimeError if there is no usable CuPy or no GPU, TypeError for masked
    arrays and numpy.matrix.
    """
    map_leaves(lambda leaf: _refuse_special("tree", leaf), tree)
    if device == "cpu":
        return to_host(tree)
    if device != "cuda":
        raise ValueError(f'device: expected "cpu" or "cuda", got {device!r}')
    return map_leaves(_require_cupy().asarray, tree)


def to_host(tree: Any) -> Any:
    """Copy every CuPy array in `tree` to the host; return NumPy arrays as they are. Waits for the GPU."""
    return map_leaves(lambda leaf: leaf.get() if is_device_array(leaf) else leaf, tree)


def take(array: Array, index: Array, axis: int, out: Array) -> Array:
    """Return array.take(index, axis) in out. The caller checks the index: on the host, one out of range would wrap."""
    if is_device_array(array):
        return sys.modules["cupy"].take(array, index, axis, out)
    return numpy.take(array, index, axis, out, mode="wrap")  # mode="raise" would fill a buffer and copy it


def scatter_add(target: Array, index: Array, values: Array) -> None:
    """Add values[..., n, :] to target[..., index[n], :] in place for every n; duplicates add up.

    target (..., V, E), index (N,), values (..., N, E). `target[index] += values` would keep only one of the duplicates.
    On the host, a small sum is fastest as a product with one-hot columns. For a larger one, the values of a frequent
    row are added by a product with ones. For all others, the first value of each row is added, then the second of each
    and so on: up to ten times as fast as numpy.add.reduceat, and much faster than numpy.add.at.
    """
    rows = target.shape[-2]
    if is_device_array(target):
        sys.modules["cupy"].add.at(target, (..., index, slice(None)), values)
        return
    if values.size * rows <= SMALL_SUM:
        one_hot = numpy.zeros((rows, len(index)), values.dtype)
        one_hot[index, numpy.arange(len(index))] = 1
        added = one_hot @ values
        if numpy.isfinite(added).all():  # else 0 times infinity is NaN, in rows that are not indexed
            target += added
            return
    if len(index):
        order, counts = numpy.argsort(index, kind="stable"), numpy.bincount(index.astype("intp"), minlength=rows)
        starts, ones = numpy.cumsum(counts) - counts, numpy.ones(counts.max(), values.dtype)
        values = numpy.ascontiguousarray(values)  # else each take below would copy it
        for row in numpy.flatnonzero(counts > FREQUENT).tolist():
            of_row = order[starts[row] : starts[row] + counts[row]]
            target[..., row, :] += ones[: len(of_row)] @ values.take(of_row, axis=-2)
        counts[counts > FREQUENT] = 0
        for n in range(counts.max()):
            found = numpy.flatnonzero(counts > n)
            target[..., found, :] += values.take(order[starts[found] + n], axis=-2)


class HoldsModule:
    """The base of objects that keep their arrays' module as `_xp`. They can be copied and pickled; modules cannot."""

    _xp: ModuleType

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_xp": self._xp.__name__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_xp": import_module(state["_xp"])})


def _require_cupy() -> ModuleType:
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(f'device "cuda" needs CuPy, which is not installed; {INSTALL}') from error
    installed = tuple(int(part) for part in cupy.__version__.split(".")[:2])
    if installed < OLDEST_CUPY:
        oldest = ".".join(map(str, OLDEST_CUPY))
        raise RuntimeError(f'device "cuda" needs CuPy {oldest} or newer, got {cupy.__version__}; {INSTALL}')
    driver = cupy.cuda.runtime.driverGetVersion()
    if not driver:
        raise RuntimeError('device "cuda": CuPy finds no NVIDIA driver; install one, or use device "cpu"')
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy raises its own CUDARuntimeError, which cannot be named without CuPy
        version = f"{driver // 1000}.{driver % 1000 // 10}"
        raise RuntimeError(
            f'device "cuda": the driver is for CUDA {version}, and CuPy cannot use it ({error}); '
            'update the driver, or use device "cpu"'
        ) from error
    if count == 0:
        raise RuntimeError('device "cuda": CuPy finds no GPU on this machine; use device "cpu"')
    return cupy
