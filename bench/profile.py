"""Profile a layer's forward + backward line by line, at one size: python -m bench profile."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from fastweights_np import memory, ops, recurrent
from fastweights_np.network import LAYERS

from .peers import in_numpy
from .peers.problem import Layer
from .report import markdown, sized, store

SIZE = (128, 11, 20)
RUNS = 200
LEAST = 0.01  # lines below this fraction of the total time are left out


def run(layer: str, threads: int, size: tuple[int, int, int] | None) -> None:
    """Profile a layer. Store profile.json and profile.md. The time of a line includes the lines that it calls."""
    from line_profiler import LineProfiler

    batch_size, steps, hidden_size = size or SIZE
    framework = in_numpy.layer(Layer(layer, batch_size, steps, hidden_size))
    profiler, module = LineProfiler(), LAYERS[layer]
    for function in _functions(module, recurrent, memory, ops):
        profiler.add_function(function)
    with threadpool_limits(threads):
        for _ in range(20):
            framework.run()
        profiler.enable_by_count()
        for _ in range(RUNS):
            framework.run()
        profiler.disable_by_count()
    rows = _rows(profiler.get_stats())
    entries = [
        (f"{layer}.py", inspect.unwrap(function).__code__.co_firstlineno)
        for function in (module.forward, module.backward)
    ]
    whole = sum(row["us"] for row in rows if (row["file"], row["first"]) in entries)
    rows = sorted((row for row in rows if row["us"] > LEAST * whole), key=lambda row: -row["us"])
    lines = [[f"{row['file']}, {row['function']}", f"`{row['line']}`", row["calls"], row["us"]] for row in rows]
    table = f"B {batch_size}, T {steps}, H {hidden_size}, {threads} threads: {whole / 1e3:.2f} ms, being watched.\n\n"
    table += markdown(["where", "line", "times in a run", "µs in a run"], lines)
    sizes = {"B": batch_size, "T": steps, "H": hidden_size, "threads": threads, "runs": RUNS}
    store("profile" + sized([size] if size else []), {"us": round(whole, 1), "lines": rows}, table, layer, **sizes)


def _functions(*modules: Any) -> list[Any]:
    """Return all functions and methods that these modules define, without their decorators."""
    found = []
    for module in modules:
        for value in vars(module).values():
            members = vars(value).values() if inspect.isclass(value) else [value]
            functions = [inspect.unwrap(member) for member in members if inspect.isfunction(member)]
            found += [function for function in functions if function.__code__.co_filename == module.__file__]
    return found


def _rows(stats: Any) -> list[dict[str, Any]]:
    """Return each line's text, its executions per run, and its microseconds per run."""
    rows = []
    for (path, first, function), timings in stats.timings.items():
        source = Path(path).read_text("utf-8").splitlines()
        for number, calls, time in timings:
            line = source[number - 1].strip().split("  #")[0]
            times = {"calls": round(calls / RUNS, 1), "us": round(time * stats.unit * 1e6 / RUNS, 1)}
            rows.append({"file": Path(path).name, "first": first, "function": function, "line": line} | times)
    return rows
