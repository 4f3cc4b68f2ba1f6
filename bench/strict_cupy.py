"""A stand-in for CuPy without a GPU: its arrays wrap NumPy arrays, and refuse every operation that CuPy refuses.

    with strict_cupy.installed() as cupy:      # as if CuPy had been imported
        x = cupy.asarray(numpy.ones(3))
        ...                                    # numpy.sum(x) and x + numpy.ones(3) raise TypeError
        cupy.usage.pulls                       # the values copied to the host

It has only the functions, methods and keywords in the tables below; all others raise. Those that the package uses are
listed in cupy_surface.txt, and test_strict_cupy.py compares the list with the real CuPy.

Operations that it refuses like CuPy, with the place in CuPy's source (commit 6b6d956, 15.0.0a1):

    implicit conversion to NumPy          cupy/_core/core.pyx, ndarray.__array__
    NumPy arrays among the operands       cupy/_core/core.pyx, ndarray.__array_ufunc__
    einsum(out=), sum(where=), ...        cupy/linalg/_einsum.py; the signatures in cupy/_core/core.pyx
    take(out=) with another dtype         cupy/_core/_routines_indexing.pyx, "Output dtype mismatch"
    vecdot, matvec, errstate              absent from cupy/__init__.py
    streams, and so CUDA graphs           cupy_backends/cuda/libs/cublas.pyx, setStream: every cuBLAS call raises
                                          NotImplementedError while a stream is captured, so no layer can be captured

Copies of values to the host are counted: float, int, bool, item, get (cupy/_core/core.pyx), and an index by a mask,
because the host needs its size. Otherwise it is stricter than CuPy. `empty` is filled with NaN. NumPy's functions are
refused, although CuPy would dispatch them. Lists and host arrays are refused as an index, although CuPy would copy
them. An index out of range wraps, as in CuPy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy

SCALARS = (bool, int, float, complex, numpy.generic)
CASTING = "same_kind"  # from a result to the array out=, the default of ufuncs


class Usage:
    """The functions, host copies and kernel launches since the last `clear`."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Reset all counts."""
        self.functions: dict[str, set[str]] = {}  # name to keywords
        self.pulls: list[str] = []  # copies of values to the host
        self.launches = 0  # array operations, each a separate kernel on a GPU

    def note(self, name: str, keywords: Any = ()) -> None:
        """Count a call of a function or method."""
        self.functions.setdefault(name, set()).update(keywords)


usage = Usage()


def _kernel(compute: Callable[[], Any], launches: int = 1, into: numpy.ndarray | None = None) -> numpy.ndarray:
    """Run a kernel, count it, and return its result: a new array, or `into`, which it fills."""
    usage.launches += launches
    result = numpy.asarray(compute())
    if into is None:
        return result
    into[...] = result
    return into


def _host(value: Any, what: str) -> Any:
    """Return the NumPy array of a device array, or a scalar itself. Raise TypeError for arrays of the host."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, SCALARS):
        return value
    raise TypeError(f"{what}: unsupported type {type(value)}: CuPy does not take arrays of the host")


def _index(index: Any, shape: tuple[int, ...]) -> Any:
    """Return the index for NumPy. Integers in device arrays wrap around, as in CuPy."""
    parts = _parts(index)
    axes = len([part for part in parts if part is not None and part is not Ellipsis])
    found, axis = [], 0
    for part in parts:
        if part is Ellipsis:
            axis += len(shape) - axes
        elif part is None:
            pass
        elif isinstance(part, ndarray):
            held = part._host
            if held.dtype.kind not in "iub":
                raise IndexError(f"arrays used as indices must be of integer or boolean type, got {held.dtype}")
            axis += held.ndim if held.dtype.kind == "b" else 1
            found.append(held if held.dtype.kind == "b" else held % shape[axis - 1])
            continue
        elif isinstance(part, (int, numpy.integer, slice)) and not isinstance(part, bool):
            axis += 1
        else:
            raise TypeError(f"index: unsupported type {type(part)}: CuPy takes no lists and no arrays of the host")
        found.append(part)
    return tuple(found)


def _parts(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _is_basic(index: Any) -> bool:
    return not any(isinstance(part, ndarray) for part in _parts(index))


class ndarray:  # noqa: N801 (CuPy's name)
    """An array on the device."""

    __array_priority__ = 100
    __slots__ = ("_host",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: Any) -> None:
        self._host = numpy.asarray(host)

    # NumPy's protocols
    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("implicit conversion to a NumPy array is not allowed; use .get()")

    def __array_ufunc__(self, ufunc: Any, *_: Any, **__: Any) -> Any:
        raise TypeError(f"numpy.{ufunc.__name__} was called with a device array; use the module that owns the array")

    def __array_function__(self, function: Any, *_: Any, **__: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was called with a device array; use the module that owns the array")

    # known without reading values
    shape = property(lambda self: self._host.shape)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    device = SimpleNamespace(id=0)
    nbytes = property(lambda self: self._host.nbytes)
    dtype = property(lambda self: self._host.dtype)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: SimpleNamespace(c_contiguous=self._host.flags.c_contiguous))
    T = property(lambda self: ndarray(self._host.T))

    @property
    def real(self) -> ndarray:
        """Return a view of the real parts."""
        return ndarray(self._host.real)

    @real.setter
    def real(self, value: Any) -> None:
        given = _host(value, "real")
        _kernel(lambda: given, into=self._host.real)

    @property
    def imag(self) -> ndarray:
        """Return a view of the imaginary parts."""
        return ndarray(self._host.imag)

    @imag.setter
    def imag(self, value: Any) -> None:
        given = _host(value, "imag")
        _kernel(lambda: given, into=self._host.imag)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[ndarray]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[n] for n in range(len(self)))

    def __repr__(self) -> str:
        return f"device array of shape {self.shape}, {self.dtype}"

    # copies of values to the host
    def _pulled(self, how: str) -> numpy.ndarray:
        usage.pulls.append(f"{how} of shape {self.shape}")
        return self._host

    def get(self) -> numpy.ndarray:
        """Return a copy on the host."""
        usage.note("ndarray.get")
        return self._pulled("get").copy()

    def item(self) -> Any:
        """Return the only value as a Python scalar."""
        usage.note("ndarray.item")
        return self._pulled("item").item()

    def __float__(self) -> float:
        return float(self._pulled("float"))

    def __int__(self) -> int:
        return int(self._pulled("int"))

    def __index__(self) -> int:
        return int(self._pulled("index"))

    def __bool__(self) -> bool:
        return bool(self._pulled("bool"))

    # indexing
    def __getitem__(self, index: Any) -> ndarray:
        if _is_basic(index):
            return ndarray(self._host[_index(index, self.shape)])
        if any(isinstance(part, ndarray) and part.dtype.kind == "b" for part in _parts(index)):
            usage.pulls.append(f"an index by a mask into shape {self.shape}")
        return ndarray(_kernel(lambda: self._host[_index(index, self.shape)]))

    def __setitem__(self, index: Any, value: Any) -> None:
        given = _host(value, "setitem")

        def put() -> numpy.ndarray:
            self._host[_index(index, self.shape)] = given
            return self._host

        _kernel(put)


def _operator(name: str) -> Callable[..., Any]:
    function = getattr(numpy.ndarray, name)

    def operate(self: ndarray, *others: Any) -> Any:
        held, hosts = self._host, [_host(other, name) for other in others]
        result = _kernel(lambda: function(held, *hosts))
        return self if name.startswith("__i") and name != "__invert__" else ndarray(result)

    operate.__name__ = name
    return operate


OPERATORS = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor",
)  # fmt: skip
for _name in OPERATORS:
    for _form in ("", "r", "i"):
        if (_form, _name) != ("i", "matmul"):
            setattr(ndarray, f"__{_form}{_name}__", _operator(f"__{_form}{_name}__"))
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "abs", "invert"):
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))

# each method with its keywords, and whether it launches a kernel: a view does not
METHODS: dict[str, tuple[tuple[str, ...], bool]] = {
    "reshape": ((), False), "swapaxes": ((), False), "transpose": ((), False), "copy": ((), True),
    "astype": (("copy",), True), "fill": ((), True), "view": ((), False), "conj": ((), True),
    "sum": (("axis", "dtype", "out", "keepdims"), True), "mean": (("axis", "dtype", "out", "keepdims"), True),
    "max": (("axis", "out", "keepdims"), True), "min": (("axis", "out", "keepdims"), True),
    "argmax": (("axis",), True), "any": (("axis",), True), "all": (("axis",), True),
    "clip": ((), True), "repeat": (("axis",), True), "take": (("axis", "out"), True),
    "dot": (("out",), True),
}  # fmt: skip


def _method(name: str, known: tuple[str, ...], is_kernel: bool) -> Callable[..., Any]:
    def call(self: ndarray, *arguments: Any, **keywords: Any) -> Any:
        _check_keywords(f"ndarray.{name}", keywords, known)
        usage.note(f"ndarray.{name}", keywords)
        hosts = [_plain(argument, name) for argument in arguments]
        out = keywords.pop("out", None)
        if name == "dot" and len(arguments) == 2:
            out, hosts = arguments[1], hosts[:1]
        if name == "fill":
            _kernel(lambda: hosts[0], into=self._host)
            return None
        if not is_kernel:
            view = getattr(self._host, name)(*hosts, **keywords)
            if not view.size or numpy.shares_memory(view, self._host):
                return ndarray(view)  # else it is a reshape that copies
        return _run(lambda: getattr(self._host, name)(*hosts, **keywords), out, name)

    call.__name__ = name
    return call


def _plain(value: Any, what: str) -> Any:
    """Return an argument for NumPy: a device array, number, shape or dtype, or a list of these."""
    if isinstance(value, (ndarray, numpy.ndarray)):
        return _host(value, what)
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(each, what) for each in value)
    return value


def _check_keywords(name: str, keywords: dict[str, Any], known: tuple[str, ...]) -> None:
    odd = set(keywords) - set(known)
    if odd:
        raise TypeError(f"{name}: keywords that CuPy lacks, or that are not in the stand-in: {', '.join(sorted(odd))}")


def _run(compute: Callable[[], Any], out: Any, name: str) -> ndarray:
    """Run a kernel and return its result, in `out` if it is given, with the casting rules of ufuncs."""
    if out is None:
        return ndarray(_kernel(compute))
    if not isinstance(out, ndarray):
        raise TypeError(f"{name}: out has to be a device array, got {type(out)}")
    result = numpy.asarray(compute())
    if result.shape != out.shape:
        raise ValueError(f"{name}: out has shape {out.shape}, the result {result.shape}")
    if not numpy.can_cast(result.dtype, out.dtype, CASTING):  # type: ignore[arg-type]
        raise TypeError(f"{name}: cannot cast {result.dtype} to {out.dtype} of out")
    _kernel(lambda: result, into=out._host)
    return out


for _name, (_known, _is_kernel) in METHODS.items():
    setattr(ndarray, _name, _method(_name, _known, _is_kernel))


# ------------------------------------------------------------------------------------------------------------ functions

UFUNCS = (
    "add", "subtract", "multiply", "divide", "negative", "maximum", "minimum", "exp", "expm1", "log", "log1p", "sqrt",
    "reciprocal", "tanh", "abs", "greater", "greater_equal", "less", "less_equal", "equal", "conjugate", "isfinite",
)  # fmt: skip
# each function with its keywords and number of kernels; those that make arrays take shapes, dtypes and numbers
FUNCTIONS: dict[str, tuple[tuple[str, ...], int]] = {
    "zeros": (("dtype",), 1), "ones": (("dtype",), 1), "full": (("dtype",), 1), "arange": (("dtype",), 1),
    "zeros_like": (("dtype",), 1), "full_like": (("dtype",), 1), "ones_like": (("dtype",), 1),
    "ascontiguousarray": ((), 1), "concatenate": (("axis",), 1), "stack": (("axis",), 1), "repeat": (("axis",), 1),
    "where": ((), 1), "matmul": (("out",), 1), "take": (("axis", "out"), 1), "broadcast_to": ((), 0),
    "split": (("axis",), 0), "array_split": (("axis",), 0), "expand_dims": (("axis",), 0), "einsum": ((), 1),
}  # fmt: skip


class Ufunc:
    """An elementwise function."""

    def __init__(self, name: str) -> None:
        self._name, self._function = name, getattr(numpy, name)

    def __call__(self, *arguments: Any, out: Any = None, **keywords: Any) -> ndarray:
        name, inputs = self._name, self._function.nin
        _check_keywords(name, keywords, ())
        given = list(arguments)
        if len(given) > inputs:
            out = given.pop()
        usage.note(name, () if out is None else ("out",))
        hosts = [_host(argument, name) for argument in given]
        return _run(lambda: self._function(*hosts), out, name)

    def at(self, target: ndarray, index: Any, values: Any) -> None:
        """Compute target[index] += values. Duplicate indices are added one after another."""
        if self._name != "add":
            raise AttributeError(f"cupy.{self._name}.at")
        usage.note("add.at")
        given = _host(values, "add.at")

        def add() -> numpy.ndarray:
            self._function.at(target._host, _index(index, target.shape), given)
            return target._host

        _kernel(add)


def _function(name: str, known: tuple[str, ...], launches: int) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> Any:
        _check_keywords(name, keywords, known)
        usage.note(name, keywords)
        given = [_plain(argument, name) for argument in arguments]
        out = keywords.pop("out", None)
        if name == "take" and len(given) == 4:
            out = arguments[3]
            del given[3]

        def compute() -> Any:
            if name != "take":
                return getattr(numpy, name)(*given, **keywords)
            values, index, *rest = given
            if out is not None and out.dtype != values.dtype:
                raise TypeError("take: output dtype mismatch")
            axis = rest[0] if rest else keywords["axis"]
            return values.take(index % values.shape[axis], axis)

        if not launches:
            views = compute()
            return [ndarray(view) for view in views] if isinstance(views, list) else ndarray(views)
        return _run(compute, out, name)

    call.__name__ = name
    return call


def empty(shape: Any, dtype: Any = float) -> ndarray:
    """Return an array of NaN, or of the lowest integer, so that reading it before writing has visible effects."""
    usage.note("empty")
    made = numpy.empty(shape, dtype)
    made.fill(numpy.nan if made.dtype.kind in "fc" else numpy.iinfo(made.dtype).min if made.dtype.kind in "iu" else 1)
    return ndarray(made)


def empty_like(array: ndarray, dtype: Any = None) -> ndarray:
    """Return `empty` with another array's shape."""
    usage.note("empty_like")
    return empty(array.shape, dtype or array.dtype)


def asarray(value: Any, dtype: Any = None) -> ndarray:
    """Return the value as a device array. Host arrays enter the device here and by `array`."""
    usage.note("asarray", () if dtype is None else ("dtype",))
    if isinstance(value, ndarray):
        return value if dtype is None else value.astype(dtype)  # type: ignore[attr-defined]
    return ndarray(numpy.array(value, dtype))


def array(value: Any, dtype: Any = None) -> ndarray:
    """Return a new device array, from a device array or from the host."""
    usage.note("array", () if dtype is None else ("dtype",))
    if isinstance(value, ndarray):
        return ndarray(_kernel(lambda: numpy.array(value._host, dtype)))
    return ndarray(numpy.array(value, dtype))


def sliding_window_view(array: ndarray, window_shape: Any, axis: Any) -> ndarray:
    """Return a view of all windows."""
    usage.note("lib.stride_tricks.sliding_window_view")
    return ndarray(numpy.lib.stride_tricks.sliding_window_view(array._host, window_shape, axis))


def module() -> Any:
    """Return the stand-in as a module. Names that are not in the tables raise AttributeError."""
    cupy = ModuleType("cupy")
    cupy.ndarray, cupy.usage = ndarray, usage  # type: ignore[attr-defined]
    for function in (empty, empty_like, asarray, array):
        setattr(cupy, function.__name__, function)
    for name in UFUNCS:
        setattr(cupy, name, Ufunc(name))
    for name, (known, launches) in FUNCTIONS.items():
        setattr(cupy, name, _function(name, known, launches))
    tricks = SimpleNamespace(sliding_window_view=sliding_window_view)
    cupy.lib = SimpleNamespace(stride_tricks=tricks)  # type: ignore[attr-defined]
    runtime = SimpleNamespace(getDeviceCount=lambda: 1, driverGetVersion=lambda: 13000)
    cupy.cuda = SimpleNamespace(runtime=runtime)  # type: ignore[attr-defined]
    cupy.__version__ = "14.0.0"  # type: ignore[attr-defined]
    return cupy


@contextmanager
def installed() -> Iterator[Any]:
    """Make `import cupy` import the stand-in within the block."""
    before, cupy = sys.modules.get("cupy"), module()
    sys.modules["cupy"] = cupy
    usage.clear()
    try:
        yield cupy
    finally:
        if before is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before
