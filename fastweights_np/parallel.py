"""A recurrent layer on several processes, each with a share of the batch.

Sequences do not see one another, so a batch can be cut: every process runs forward and backward on its sequences, and
the gradients of the parameters are added up. Threads would not do: the operations of one time step are so small that
Python's lock passes from thread to thread for each of them (measured at half the speed of a single thread).

    from fastweights_np import parallel

    with parallel.Layer(fw.fast_weights, processes=2) as layer:
        h, cache = layer.forward(params, x, decay=0.95, rate=0.5)
        grads, dx, dh0 = layer.backward(dh, cache)

The first share is computed in this process, the others in helpers, which are started once and wait at a pipe. Arrays
go by way of memory that both sides see. Give each process a BLAS thread of its own: OPENBLAS_NUM_THREADS=1, which the
helpers set for themselves.
"""

from __future__ import annotations

import importlib
import mmap
import os
import pickle
import select
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from multiprocessing.connection import Connection, Pipe
from types import ModuleType
from typing import Any, NamedTuple

import numpy

from . import checks, ops
from .backend import array_module
from .recurrent import renamed
from .workspace import Workspace

Array = numpy.ndarray
Shapes = tuple[tuple[str, tuple[int, ...], str], ...]  # name, shape and dtype of each array

ALIGNMENT = 64  # bytes of a cache line
ENDED = "a helper process has ended: make a new parallel.Layer"
AWAKE = 2e-3  # seconds that a process stays awake for a message: to be woken takes some 0.1 ms, twice in each call


class Cache(NamedTuple):
    """What `backward` depends on: the first share's own cache, and where the helpers' arrays are."""

    own: Any
    shape: tuple[int, int, int]  # of h, (T, B, H)
    shares: list[slice]
    places: list[dict[str, Array]]  # each helper's arrays
    layer: Layer
    ticket: int


class Layer:
    """The functions of `layer`, a recurrent layer's module; those of whole sequences run on several `processes`.

    What else such a module has, like fast_weights.attention, wants a cache of the layer's own. Results equal the
    layer's to rounding, and are the same bits from run to run. A cache is good until the next forward. Takes NumPy
    arrays only, and needs a system that hands open files on to child processes (Linux, macOS).

    Close it with `close` or a `with` block; helpers also end with this process. One thread at a time: a second one gets
    RuntimeError. It cannot be copied or pickled (TypeError).
    """

    def __init__(self, layer: ModuleType, processes: int = 2) -> None:
        checks.count("processes", processes, least=1)
        checks.instance("layer", layer, ModuleType, "pass a layer's module, such as fastweights_np.fast_weights")
        self._layer = layer
        self.init, self.initial_state, self.step = layer.init, layer.initial_state, layer.step
        self._helpers = [_Helper(layer.__name__) for _ in range(processes - 1)]
        self._workspace, self._calls = Workspace(), Workspace()  # calls: that of this layer as a whole

    def forward(
        self, params: dict[str, Array], x: Array | ops.Embedded, h0: Array | None = None, *arguments: Any,
        workspace: Workspace | None = None, **options: Any,
    ) -> tuple[Array, Cache]:  # fmt: skip
        """Run the layer's own forward; every array among the options has a row for each sequence.

        `workspace` serves the first share; each helper has one of its own.
        """
        with self._calls:
            return self._forward(params, x, h0, arguments, workspace, options)

    def _forward(
        self, params: dict[str, Array], x: Array | ops.Embedded, h0: Array | None, arguments: tuple[Any, ...],
        workspace: Workspace | None, options: dict[str, Any],
    ) -> tuple[Array, Cache]:  # fmt: skip
        checks.instance("params", params, dict, "make it with init()")
        arrays = {name: value for name, value in options.items() if hasattr(value, "dtype")}
        if array_module(x=ops.input_array(x), **checks.given(h0=h0), **params, **arrays) is not numpy:
            raise TypeError("x: expected NumPy arrays, got CuPy's; on a GPU take the layer itself, not parallel.Layer")
        ops.refuse_closed_loop(x, "parallel.Layer; take the layer itself")
        checks.shape("x", x, ("T", "B", "I"), "x is (steps, sequences, inputs)")
        steps, batch_size, _ = x.shape
        given = {name: value for name, value in ({"h0": h0} | options).items() if isinstance(value, numpy.ndarray)}
        for name, value in given.items():
            if value.shape[:1] != (batch_size,):
                raise ValueError(f"{name}: expected a row for each of the {batch_size} sequences, got {value.shape}")
        options = {name: value for name, value in options.items() if name not in given}
        shares = _shares(batch_size, 1 + len(self._helpers))
        ticket, places = self._calls.begin(), []
        for helper, share in zip(self._helpers, shares[1:], strict=False):
            inputs = {f"params/{name}": value for name, value in params.items()}
            inputs |= _input(x, share) | {name: value[share] for name, value in given.items()}
            outputs = {"d" + name: value.shape for name, value in inputs.items() if name not in ("tokens", *given)}
            state = (share.stop - share.start, params["W"].shape[-1])
            outputs |= {"h": (steps, *state), "dh": (steps, *state), "dlast": state, "dh0": state}
            places.append(helper.start(inputs, outputs, arguments, options))
        own = {name: value[shares[0]] for name, value in given.items()}
        own_input = _input(x, shares[0])
        # contiguous, for backward will take it as one matrix again
        own_x = ops.Embedded(**own_input) if "table" in own_input else numpy.ascontiguousarray(own_input["x"])
        workspace = workspace or self._workspace
        try:
            own_h, cache = self._layer.forward(
                params, own_x, own.pop("h0", None), *arguments, workspace=workspace, **own, **options
            )
            h = _begin(own_h, batch_size, axis=1)  # while helpers are not done
        finally:  # or else a helper's answer would be taken for that to the next question
            failures = [helper.finish() for helper in self._helpers]
        _raise_first(failures)
        for share, arrays in zip(shares[1:], places, strict=True):
            h[:, share] = arrays["h"]
        return h, Cache(cache, h.shape, shares, places, self, ticket)

    @renamed(also="extra")
    def backward(
        self, dh: Array, cache: Cache, extra: Sequence[str] = ()
    ) -> tuple[dict[str, Array], Array, Array]:  # fmt: skip
        """Run the layer's own backward."""
        with self._calls:
            return self._backward(dh, cache, extra)

    def _backward(
        self, dh: Array, cache: Cache, extra: Sequence[str]
    ) -> tuple[dict[str, Array], Array, Array]:  # fmt: skip
        array_module(dh=dh)
        self._check(cache)
        extra = (extra,) if isinstance(extra, str) else tuple(extra)
        batch_size, last_only = cache.shares[-1].stop, dh.ndim == 2
        shape = cache.shape[1:] if last_only else cache.shape
        checks.shape("dh", dh, shape, "dh has the shape of h, or of h[-1]")
        helpers = list(zip(self._helpers, cache.places, cache.shares[1:], strict=False))
        for helper, arrays, share in helpers:
            arrays["dlast" if last_only else "dh"][...] = dh[..., share, :]
            helper.send(("backward", last_only, extra))
        embedded = bool(cache.places) and "dtable" in cache.places[0]  # the table is a parameter
        try:
            grads, dx, dh0 = self._layer.backward(dh[..., cache.shares[0], :], cache.own, extra)
            dx, dh0 = dx if embedded else _begin(dx, batch_size, axis=1), _begin(dh0, batch_size, axis=0)
        finally:
            failures = [helper.finish() for helper in self._helpers]
        _raise_first(failures)
        for helper, arrays, share in helpers:
            if embedded:
                dx = dx + arrays["dtable"]
            else:
                dx[:, share] = arrays["dx"]
            dh0[share] = arrays["dh0"]
            for name, ours in grads.items():
                theirs = helper.extras[name] if name in extra else arrays[f"dparams/{name}"]
                # beside those of parameters there are gradients of numbers, and of arrays with a row for each sequence
                rows = name in extra and ours.ndim > 0
                grads[name] = numpy.concatenate((ours, theirs)) if rows else ours + theirs
        return grads, dx, dh0

    def final_state(self, cache: Cache) -> Any:
        """Return the layer's own state after the last step of `forward`, for all sequences."""
        with self._calls:
            self._check(cache)
            helpers = self._helpers[: len(cache.places)]
            for helper in helpers:
                helper.send(("final_state",))
            try:
                own = self._layer.final_state(cache.own)
            finally:
                failures = [helper.finish() for helper in helpers]
            _raise_first(failures)
            parts = [own._asdict(), *(helper.extras for helper in helpers)]
            return type(own)(*(numpy.concatenate([part[name] for part in parts]) for name in own._fields))

    def _check(self, cache: Cache) -> None:
        """Raise unless the cache belongs to this layer's last forward."""
        checks.instance("cache", cache, Cache, "forward of the same layer returns it: h, cache = layer.forward(...)")
        if cache.layer is not self:
            raise ValueError("cache: expected one that this layer's forward returned, got another layer's")
        self._calls.check(cache.ticket)

    def close(self) -> None:
        """Ends the helpers."""
        for helper in self._helpers:
            helper.close()

    def __reduce__(self) -> Any:
        raise TypeError("parallel.Layer: its helper processes cannot be copied; make a new one")

    def __enter__(self) -> Layer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shares(batch_size: int, processes: int) -> list[slice]:
    """The batch cut into at most `processes` shares of equal size, or nearly so, none empty."""
    count = min(processes, max(batch_size, 1))
    edges = [batch_size * n // count for n in range(count + 1)]
    return [slice(first, last) for first, last in pairwise(edges)]


def _begin(first: Array, batch_size: int, axis: int) -> Array:
    """An array with room for all sequences, along this axis, that begins with the first share's."""
    if first.shape[axis] == batch_size:
        return first
    whole = numpy.empty((*first.shape[:axis], batch_size, *first.shape[axis + 1 :]), first.dtype)
    whole[(slice(None),) * axis + (slice(first.shape[axis]),)] = first
    return whole


def _input(x: Array | ops.Embedded, share: slice) -> dict[str, Array]:
    """The arrays of a share of the input."""
    if isinstance(x, ops.Embedded):
        return {"table": x.table, "tokens": x.tokens[:, share]}
    return {"x": x[:, share]}


def _raise_first(failures: list[BaseException | None]) -> None:
    for failure in failures:
        if failure is not None:
            raise failure


class _Shared:
    """Memory that two processes see, cut into named arrays: the same shapes give the same places on both sides."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._shapes: Shapes = ()
        self._arrays: dict[str, Array] = {}

    def arrays(self, shapes: Shapes) -> dict[str, Array]:
        """An array for each name; those of the last call are lost if the shapes are others."""
        if shapes != self._shapes:
            sizes = [
                -(-prod(shape) * numpy.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT for _, shape, dtype in shapes
            ]
            size = max(sum(sizes), ALIGNMENT)
            if os.fstat(self._file).st_size < size:
                # taken now, an error if there is no room; what ftruncate promises may be a crash when it is written to
                getattr(os, "posix_fallocate", lambda file, _, size: os.ftruncate(file, size))(self._file, 0, size)
            memory, start, self._arrays = mmap.mmap(self._file, size), 0, {}
            for (name, shape, dtype), taken in zip(shapes, sizes, strict=True):
                self._arrays[name] = numpy.frombuffer(memory, dtype, prod(shape), start).reshape(shape)
                start += taken
            self._shapes = shapes
        return self._arrays


class _Helper:
    """This process's end of a helper process."""

    def __init__(self, layer: str) -> None:
        with tempfile.TemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as file:
            self._file = os.dup(file.fileno())
        their_answers, their_commands = Pipe(duplex=False), Pipe(duplex=False)
        self._answers, self._commands = their_answers[0], their_commands[1]
        theirs = their_commands[0].fileno(), their_answers[1].fileno(), self._file
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import _serve; _serve{(*theirs, layer)}"],
            pass_fds=theirs,
            env={"OPENBLAS_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C, and what else a terminal sends to all, is for this process alone
        )
        their_commands[0].close()
        their_answers[1].close()
        self._shared = _Shared(self._file)
        self._busy, self._owner = False, os.getpid()
        self.extras: dict[str, Array] = {}  # what a command returned besides: gradients of `extra`, a state's arrays
        self._closing = weakref.finalize(self, _end, self._commands, self._answers, self._process, self._file)

    def start(self, inputs: dict[str, Array], outputs: dict[str, tuple[int, ...]], *rest: Any) -> dict[str, Array]:
        """Begins a forward: puts the inputs where the helper sees them, and returns the places of all arrays."""
        self._check()
        dtype = next(iter(inputs.values())).dtype.str
        shapes = tuple((name, value.shape, value.dtype.str) for name, value in inputs.items())
        shapes += tuple((name, shape, dtype) for name, shape in outputs.items())
        arrays = self._shared.arrays(shapes)
        for name, value in inputs.items():
            arrays[name][...] = value
        self.send(("forward", shapes, tuple(inputs), *rest))
        return arrays

    def send(self, message: tuple) -> None:
        """Sends a command; `finish` has to follow."""
        self._check()
        self.finish()  # what an exception elsewhere may have left unheard
        try:
            self._commands.send_bytes(pickle.dumps(message))  # .send takes three times as long
        except OSError as error:
            raise RuntimeError(ENDED) from error
        self._busy = True

    def finish(self) -> BaseException | None:
        """Waits for the end of the command; returns what it raised, if anything."""
        if not self._busy:
            return None
        try:
            failure, self.extras = _receive(self._answers)
        except (EOFError, OSError):
            failure = RuntimeError(ENDED)
        except BaseException:  # Ctrl-C: half a message may have been read, and what follows could not be trusted
            self._process.kill()
            self._process.wait()  # or it might still take the next command, and its old answer be taken for that
            raise
        finally:
            self._busy = False
        return failure

    def _check(self) -> None:
        """Raises RuntimeError if the helper is not this process's to command."""
        if not self._closing.alive:
            raise RuntimeError("parallel.Layer: expected an open one, got one that has been closed: make a new one")
        if os.getpid() != self._owner:
            raise RuntimeError(
                "parallel.Layer: expected the process that made it, got one forked from it: make a new one"
            )

    def close(self) -> None:
        """Ends the process."""
        self._closing()


def _receive(pipe: Connection) -> Any:
    """The next message, for which it looks out for a while before it falls asleep."""
    limit, look = time.perf_counter() + AWAKE, select.poll()
    look.register(pipe.fileno(), select.POLLIN)
    while not look.poll(0) and time.perf_counter() < limit:
        pass
    return pickle.loads(pipe.recv_bytes())


def _end(commands: Connection, answers: Connection, process: subprocess.Popen, file: int) -> None:
    commands.close()  # at whose end the helper ends
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:  # a child forked from this process may hold the other end open
        process.kill()
        process.wait()
    answers.close()
    os.close(file)


def _serve(commands_file: int, answers_file: int, file: int, layer_name: str) -> None:
    """A helper's life: commands come and answers go by pipes, arrays by shared memory. It ends with the commands."""
    commands, answers = Connection(commands_file, writable=False), Connection(answers_file, readable=False)
    helping = _Helping(importlib.import_module(layer_name), _Shared(file))
    while True:
        try:
            command, *rest = _receive(commands)
        except EOFError:
            return
        failure: Exception | None = None
        extras: dict[str, Array] = {}
        try:
            extras = getattr(helping, command)(*rest)
        except Exception as error:  # told to the process that asked
            failure = error
        try:
            answer = pickle.dumps((failure, extras))
        except Exception:  # an exception may hold what cannot be sent
            answer = pickle.dumps((RuntimeError(f"{type(failure).__name__}: {failure}"), {}))
        answers.send_bytes(answer)


class _Helping:
    """What a helper does with its share."""

    def __init__(self, layer: Any, shared: _Shared) -> None:
        self._layer, self._shared, self._workspace = layer, shared, Workspace()

    def forward(self, shapes: Shapes, inputs: tuple[str, ...], arguments: tuple, options: dict[str, Any]) -> dict:
        """From the inputs to h."""
        self._arrays = self._shared.arrays(shapes)
        given = {name: self._arrays[name] for name in inputs}
        params = {name.removeprefix("params/"): given.pop(name) for name in inputs if name.startswith("params/")}
        x = given.pop("x") if "x" in given else ops.Embedded(given.pop("table"), given.pop("tokens"))
        h, self._cache = self._layer.forward(
            params, x, given.pop("h0", None), *arguments, workspace=self._workspace, **given, **options
        )
        self._arrays["h"][...] = h
        return {}

    def backward(self, last_only: bool, extra: tuple[str, ...]) -> dict[str, Array]:
        """From dh to all gradients; returns those of `extra`."""
        arrays = self._arrays
        grads, dx, dh0 = self._layer.backward(arrays["dlast" if last_only else "dh"], self._cache, extra)
        arrays["dx" if "dx" in arrays else "dtable"][...] = dx
        arrays["dh0"][...] = dh0
        for name in grads.keys() - set(extra):
            arrays[f"dparams/{name}"][...] = grads[name]
        return {name: grads[name] for name in extra}

    def final_state(self) -> dict[str, Array]:
        """Return the arrays of the state after the last step."""
        return self._layer.final_state(self._cache)._asdict()
