"""A recurrent layer on several processes, each with a share of the batch.

Sequences are independent, so that a batch can be split. Every process runs forward and backward on its sequences, and
the gradients of the parameters are summed. Several threads run at half the speed of one (measured): the operations of
one time step are so small that Python's lock passes between threads for each of them.

    from fastweights_np import parallel

    with parallel.Layer(fw.fast_weights, processes=2) as layer:
        h, cache = layer.forward(params, x, decay=0.95, rate=0.5)
        grads, dx, dh0 = layer.backward(dh, cache)

This process computes the first share, and helper processes compute the others. Helpers are started once and wait at a
pipe. Arrays are passed in shared memory. Give each process one BLAS thread: OPENBLAS_NUM_THREADS=1. Helpers set it for
themselves.
"""

from __future__ import annotations

import importlib
import os
import pickle
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing.connection import Connection, Pipe
from types import ModuleType
from typing import Any, NamedTuple

import numpy

from . import checks, ops
from .backend import array_module
from .recurrent import renamed
from .shared_arrays import Shapes, SharedFile, new_file
from .workspace import Workspace

__all__ = ["Cache", "Layer"]

Array = numpy.ndarray

ENDED = "a helper process has ended: make a new parallel.Layer"
AWAKE = 2e-3  # seconds that a process polls for a message: waking it up takes some 0.1 ms, twice in each call


class Cache(NamedTuple):
    """All that `backward` depends on: the first share's cache, and the places of the helpers' arrays."""

    own: Any
    shape: tuple[int, int, int]  # of h, (T, B, H)
    shares: list[slice]
    places: list[dict[str, Array]]  # each helper's arrays
    layer: Layer
    ticket: int


class Layer:
    """The functions of `layer`, a recurrent layer's module; functions of whole sequences run on several `processes`.

    Other functions of the module, such as fast_weights.attention, need a cache of the layer itself. Results equal the
    layer's up to rounding error, and have the same bits in every run. A cache is valid until the next forward. All
    arrays are NumPy's. The system must pass open files to child processes (Linux, macOS).

    Close it with `close` or a `with` block; helpers also end with this process. Only one thread may use it at a time: a
    second one gets RuntimeError. It cannot be copied or pickled (TypeError).
    """

    def __init__(self, layer: ModuleType, processes: int = 2) -> None:
        checks.count("processes", processes, least=1)
        checks.instance("layer", layer, ModuleType, "pass a layer's module, such as fastweights_np.fast_weights")
        self._layer = layer
        self.init, self.initial_state, self.step = layer.init, layer.initial_state, layer.step
        self._helpers = [_Helper(layer.__name__) for _ in range(processes - 1)]
        self._workspace, self._calls = Workspace(), Workspace()  # _calls guards the layer as a whole

    def forward(
        self, params: dict[str, Array], x: Array | ops.Embedded, h0: Array | None = None, *arguments: Any,
        workspace: Workspace | None = None, **options: Any,
    ) -> tuple[Array, Cache]:  # fmt: skip
        """Run the layer's own forward; every array among the options has a row for each sequence.

        `workspace` serves the first share; each helper has its own.
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
            _check_rows(name, value.T if name == "resets" else value, batch_size)
        options = {name: value for name, value in options.items() if name not in given}
        shares = _shares(batch_size, 1 + len(self._helpers))
        ticket, places = self._calls.begin(), []
        for helper, share in zip(self._helpers, shares[1:], strict=False):
            inputs = {f"params/{name}": value for name, value in params.items()}
            inputs |= _input(x, share) | _of_rows(given, share)
            outputs = {"d" + name: value.shape for name, value in inputs.items() if name not in ("tokens", *given)}
            state = (share.stop - share.start, params["W"].shape[-1])
            outputs |= {"h": (steps, *state), "dh": (steps, *state), "dlast": state, "dh0": state}
            places.append(helper.start(inputs, outputs, arguments, options))
        own = _of_rows(given, shares[0])
        own_input = _input(x, shares[0])
        # contiguous, because backward reshapes it to one matrix
        own_x = ops.Embedded(**own_input) if "table" in own_input else numpy.ascontiguousarray(own_input["x"])
        workspace = workspace or self._workspace
        try:
            own_h, cache = self._layer.forward(
                params, own_x, own.pop("h0", None), *arguments, workspace=workspace, **own, **options
            )
            h = _begin(own_h, batch_size, axis=1)  # while helpers still compute
        finally:  # otherwise a helper's answer would be taken for the answer to the next command
            failures = [helper.finish() for helper in self._helpers]
        _raise_first(failures)
        for share, arrays in zip(shares[1:], places, strict=True):
            h[:, share] = arrays["h"]
        return h, Cache(cache, h.shape, shares, places, self, ticket)

    @renamed(also="extra")
    def backward(
        self, dh: Array, cache: Cache, extra: Sequence[str] = (), dstate: Any = None
    ) -> tuple[dict[str, Array], Array, Array]:  # fmt: skip
        """Run the layer's own backward."""
        with self._calls:
            return self._backward(dh, cache, extra, dstate)

    def _backward(
        self, dh: Array, cache: Cache, extra: Sequence[str], dstate: Any
    ) -> tuple[dict[str, Array], Array, Array]:  # fmt: skip
        array_module(dh=dh)
        self._check(cache)
        extra = (extra,) if isinstance(extra, str) else tuple(extra)
        batch_size, last_only = cache.shares[-1].stop, dh.ndim == 2
        shape = cache.shape[1:] if last_only else cache.shape
        if dstate is not None:
            checks.instance("dstate", dstate, self._layer.State, "pass a State with the gradients of final_state")
            for name, array in dstate._asdict().items():
                array_module(**{f"dstate.{name}": array})
                _check_rows(f"dstate.{name}", array, batch_size)
        checks.shape("dh", dh, shape, "dh has the shape of h, or of h[-1]")
        helpers = list(zip(self._helpers, cache.places, cache.shares[1:], strict=False))
        for helper, arrays, share in helpers:
            arrays["dlast" if last_only else "dh"][...] = dh[..., share, :]
            helper.send(("backward", last_only, extra, _of_share(dstate, share)))
        embedded = bool(cache.places) and "dtable" in cache.places[0]  # the table is a parameter
        try:
            grads, dx, dh0 = self._layer.backward(
                dh[..., cache.shares[0], :], cache.own, extra, _of_share(dstate, cache.shares[0])
            )
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
                # further gradients are of numbers, or of arrays with a row for each sequence
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
        """End the helpers."""
        for helper in self._helpers:
            helper.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            "parallel.Layer: its helper processes cannot be copied, nor can its caches; make a new one, or use the "
            "layer itself"
        )

    def __enter__(self) -> Layer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shares(batch_size: int, processes: int) -> list[slice]:
    """Return the batch, split into at most `processes` shares of equal size, or nearly so, none empty."""
    count = min(processes, max(batch_size, 1))
    edges = [batch_size * n // count for n in range(count + 1)]
    return [slice(first, last) for first, last in pairwise(edges)]


def _check_rows(name: str, array: Array, batch_size: int) -> None:
    if array.shape[:1] != (batch_size,):
        raise ValueError(f"{name}: expected a row for each of the {batch_size} sequences, got {array.shape}")


def _begin(first: Array, batch_size: int, axis: int) -> Array:
    """Return an array with room for all sequences along this axis; it begins with the first share's."""
    if first.shape[axis] == batch_size:
        return first
    whole = numpy.empty((*first.shape[:axis], batch_size, *first.shape[axis + 1 :]), first.dtype)
    whole[(slice(None),) * axis + (slice(first.shape[axis]),)] = first
    return whole


def _of_share(state: Any, share: slice) -> Any:
    """Return a state's arrays for the sequences of a share; None stays."""
    return state if state is None else type(state)(*(array[share] for array in state))


def _of_rows(given: dict[str, Array], share: slice) -> dict[str, Array]:
    """Return the rows of a share of each array; `resets` (T, B) has a column for each sequence."""
    return {name: value[:, share] if name == "resets" else value[share] for name, value in given.items()}


def _input(x: Array | ops.Embedded, share: slice) -> dict[str, Array]:
    """Return the arrays of a share of the input."""
    if isinstance(x, ops.Embedded):
        return {"table": x.table, "tokens": x.tokens[:, share]}
    return {"x": x[:, share]}


def _raise_first(failures: list[BaseException | None]) -> None:
    for failure in failures:
        if failure is not None:
            raise failure


class _Helper:
    """This process's end of a helper process."""

    def __init__(self, layer: str) -> None:
        self._file = new_file()
        their_answers, their_commands = Pipe(duplex=False), Pipe(duplex=False)
        self._answers, self._commands = their_answers[0], their_commands[1]
        theirs = their_commands[0].fileno(), their_answers[1].fileno(), self._file
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import _serve; _serve{(*theirs, layer)}"],
            pass_fds=theirs,
            env={"OPENBLAS_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C and other signals of a terminal reach this process alone
        )
        their_commands[0].close()
        their_answers[1].close()
        self._shared = SharedFile(self._file)
        self._busy, self._owner = False, os.getpid()
        self.extras: dict[str, Array] = {}  # further results of a command: gradients of `extra`, a state's arrays
        self._closing = weakref.finalize(self, _end, self._commands, self._answers, self._process, self._file)

    def start(self, inputs: dict[str, Array], outputs: dict[str, tuple[int, ...]], *rest: Any) -> dict[str, Array]:
        """Begin a forward: put the inputs into shared memory, and return all arrays, inputs and outputs."""
        self._check()
        dtype = next(iter(inputs.values())).dtype.str
        shapes = tuple((name, value.shape, value.dtype.str) for name, value in inputs.items())
        shapes += tuple((name, shape, dtype) for name, shape in outputs.items())
        arrays = self._shared.arrays(shapes)
        for name, value in inputs.items():
            arrays[name][...] = value
        self.send(("forward", shapes, tuple(inputs), *rest))
        return arrays

    def send(self, message: tuple[Any, ...]) -> None:
        """Send a command; `finish` has to follow."""
        self._check()
        self.finish()  # reads an answer that an exception elsewhere may have left
        try:
            self._commands.send_bytes(pickle.dumps(message))  # .send takes three times as long
        except OSError as error:
            raise RuntimeError(ENDED) from error
        self._busy = True

    def finish(self) -> BaseException | None:
        """Wait for the end of the command; return the exception that it raised, or None."""
        if not self._busy:
            return None
        try:
            failure, self.extras = _receive(self._answers)
        except (EOFError, OSError):
            failure = RuntimeError(ENDED)
        except BaseException:  # Ctrl-C: half a message may have been read, and the rest cannot be trusted
            self._process.kill()
            self._process.wait()  # otherwise its old answer might be taken for the answer to the next command
            raise
        finally:
            self._busy = False
        return failure

    def _check(self) -> None:
        """Raise RuntimeError if the helper is closed, or if another process started it."""
        if not self._closing.alive:
            raise RuntimeError("parallel.Layer: expected an open one, got one that has been closed: make a new one")
        if os.getpid() != self._owner:
            raise RuntimeError(
                "parallel.Layer: expected the process that made it, got one forked from it: make a new one"
            )

    def close(self) -> None:
        """End the process."""
        self._closing()


def _receive(pipe: Connection) -> Any:
    """Return the next message. Poll for it for a while before sleeping."""
    limit, look = time.perf_counter() + AWAKE, select.poll()
    look.register(pipe.fileno(), select.POLLIN)
    while not look.poll(0) and time.perf_counter() < limit:
        pass
    return pickle.loads(pipe.recv_bytes())


def _end(commands: Connection, answers: Connection, process: subprocess.Popen[bytes], file: int) -> None:
    commands.close()  # the helper ends when this pipe closes
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:  # a child forked from this process may hold the other end open
        process.kill()
        process.wait()
    answers.close()
    os.close(file)


def _serve(commands_file: int, answers_file: int, file: int, layer_name: str) -> None:
    """Run a helper: commands and answers pass through pipes, arrays through shared memory. It ends with the pipe."""
    commands, answers = Connection(commands_file, writable=False), Connection(answers_file, readable=False)
    helping = _Helping(importlib.import_module(layer_name), SharedFile(file))
    while True:
        try:
            command, *rest = _receive(commands)
        except EOFError:
            return
        failure: Exception | None = None
        extras: dict[str, Array] = {}
        try:
            extras = getattr(helping, command)(*rest)
        except Exception as error:  # reported to the process that asked
            failure = error
        try:
            answer = pickle.dumps((failure, extras))
        except Exception:  # an exception may hold an object that cannot be pickled
            answer = pickle.dumps((RuntimeError(f"{type(failure).__name__}: {failure}"), {}))
        answers.send_bytes(answer)


class _Helping:
    """The commands that a helper runs on its share."""

    def __init__(self, layer: Any, shared: SharedFile) -> None:
        self._layer, self._shared, self._workspace = layer, shared, Workspace()

    def forward(
        self, shapes: Shapes, inputs: tuple[str, ...], arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> dict[str, Array]:  # fmt: skip
        """Compute h from the inputs."""
        self._arrays = self._shared.arrays(shapes)
        given = {name: self._arrays[name] for name in inputs}
        params = {name.removeprefix("params/"): given.pop(name) for name in inputs if name.startswith("params/")}
        x = given.pop("x") if "x" in given else ops.Embedded(given.pop("table"), given.pop("tokens"))
        h, self._cache = self._layer.forward(
            params, x, given.pop("h0", None), *arguments, workspace=self._workspace, **given, **options
        )
        self._arrays["h"][...] = h
        return {}

    def backward(self, last_only: bool, extra: tuple[str, ...], dstate: Any) -> dict[str, Array]:
        """Compute all gradients from dh; return the gradients that `extra` names."""
        arrays = self._arrays
        grads, dx, dh0 = self._layer.backward(arrays["dlast" if last_only else "dh"], self._cache, extra, dstate)
        arrays["dx" if "dx" in arrays else "dtable"][...] = dx
        arrays["dh0"][...] = dh0
        for name in grads.keys() - set(extra):
            arrays[f"dparams/{name}"][...] = grads[name]
        return {name: grads[name] for name in extra}

    def final_state(self) -> dict[str, Array]:
        """Return the arrays of the state after the last step."""
        return self._layer.final_state(self._cache)._asdict()
