"""Test whether two runs differ on the same test examples, by McNemar's exact test: python -m bench mcnemar RUN RUN.

Null hypothesis: an example that only one run gets wrong is equally likely to be the first or the second run's error.

    p = min(1, 2 Σ_{k <= min(b, c)} C(b + c, k) / 2^(b + c)),   b, c: wrong in the first run only, in the second only

Source: McNemar 1947, Psychometrika 12, 153-157; the exact form is the two-sided sign test.
"""

from __future__ import annotations

from math import comb

from . import store


def exact(b: int, c: int) -> float:
    """Return the two-sided p-value for b and c discordant examples."""
    tail = sum(comb(b + c, k) for k in range(min(b, c) + 1))
    return min(1.0, 2 * tail / 2 ** (b + c))


def compare(first: str, second: str) -> str:
    """Return the comparison of two stored runs in one sentence. Raise ValueError unless they can be compared."""
    runs = [_run(name) for name in (first, second)]
    if runs[0]["data"]["name"] != runs[1]["data"]["name"] or runs[0]["data"]["sizes"][2] != runs[1]["data"]["sizes"][2]:
        raise ValueError(f"runs: expected two of the same test set, got {runs[0]['data']} and {runs[1]['data']}")
    wrong = [set(run["wrong_answers"]) for run in runs]
    b, c = len(wrong[0] - wrong[1]), len(wrong[1] - wrong[0])
    return (
        f"of {runs[0]['data']['sizes'][2]:,} test examples {len(wrong[0] & wrong[1])} are wrong in both runs, {b} in "
        f"{first} alone, {c} in {second} alone: p = {exact(b, c):.3g} (McNemar's exact test)"
    )


def _run(name: str) -> store.Run:
    found = next((run for run in store.load(name.partition("/")[0]) if run["run"] == name), None)
    if found is None:
        raise ValueError(f"runs: expected the name of a stored run, such as mnist/lstm-R50-seed0, got {name!r}")
    if "wrong_answers" not in found:
        raise ValueError(f"runs: expected a run that stored its answers, got {name}, which is older; run it again")
    return found
