"""Watch the stepper's time, memory and error over a million steps: python -m bench step --endure 1000000."""

from __future__ import annotations

import time

import numpy
from threadpoolctl import threadpool_limits

from fastweights_np import fast_weights

from .peers.problem import Step
from .peers.worker import memory
from .report import markdown, store

BATCH_SIZE, HIDDEN_SIZE = 1, 128
PARTS = 10
BLOCK = 1000  # steps between two comparisons with float64


def run(steps: int) -> None:
    """Advance a stepper in float32 by new inputs, and `step` in float64, on one thread. Store step-endurance.json.

    Each tenth of the steps has a row. Its error is the largest of all comparisons.
    """
    if steps % PARTS:
        raise ValueError(f"endure: expected a multiple of {PARTS} steps, got {steps}")
    problem = Step("fast_weights", BATCH_SIZE, 1, HIDDEN_SIZE)
    params, exact = (problem.arrays(dtype)[0] for dtype in ("float32", "float64"))
    stepper, state = fast_weights.Stepper(params, BATCH_SIZE), fast_weights.initial_state(exact, BATCH_SIZE)
    rng, rows = numpy.random.default_rng(problem.seed), []
    with threadpool_limits(1):
        for part in range(1, PARTS + 1):
            seconds, error, left = 0.0, 0.0, steps // PARTS
            while left:
                x = rng.standard_normal((min(left, BLOCK), BATCH_SIZE, problem.input_size), "float32")
                started = time.perf_counter()
                for x_t in x:
                    stepper(x_t)
                seconds += time.perf_counter() - started
                for x_t in x.astype("float64"):
                    _, state = fast_weights.step(exact, x_t, state)
                pairs = zip(stepper.state, state, strict=True)
                error = max(error, *(float(numpy.linalg.norm(a - b) / numpy.linalg.norm(b)) for a, b in pairs))
                left -= len(x)
            rows.append(
                {"steps": part * steps // PARTS, "us": round(1e6 * seconds * PARTS / steps, 2),
                 "mb": round(memory("VmRSS") / 2**20, 2), "error": error}
            )  # fmt: skip
            print(rows[-1], flush=True)
    lines = [[f"{row['steps']:,}", row["us"], row["mb"], f"{row['error']:.1e}"] for row in rows]
    table = markdown(["steps", "µs a step", "memory of the process, MB", "error relative to float64"], lines)
    store("step-endurance", rows, table, "fast_weights", B=BATCH_SIZE, H=HIDDEN_SIZE, I=problem.input_size, threads=1)
