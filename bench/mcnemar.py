"""Test whether two runs differ on the same test examples, by McNemar's exact test: python -m bench mcnemar RUN RUN.

Null hypothesis: an example that only one run gets wrong is equally likely to be the first or the second run's error.

    p = min(1, 2 Σ_{k <= min(b, c)} C(b + c, k) / 2^(b + c)),   b, c: wrong in the first run only, in the second only

Source: McNemar 1947, Psychometrika 12, 153-157; the exact form is the two-sided sign test.
"""

from __future__ import annotations

from . import store
from .report import markdown
from .seeds import sign_test


def discordant(first: store.Run, second: store.Run) -> tuple[int, int, int]:
    """Return how many test examples are wrong in both runs, in the first only, and in the second only."""
    wrong = [set(run["wrong_answers"]) for run in (first, second)]
    return len(wrong[0] & wrong[1]), len(wrong[0] - wrong[1]), len(wrong[1] - wrong[0])


def compare(first: str, second: str) -> str:
    """Return the comparison of two stored runs in one sentence. Raise ValueError unless they can be compared."""
    if first == second:
        raise ValueError(f"runs: expected two different runs, got {first} twice")
    runs = [_run(name) for name in (first, second)]
    if not store.same_test_set(*runs):
        raise ValueError(f"runs: expected two of the same test set, got {runs[0]['data']} and {runs[1]['data']}")
    both, b, c = discordant(*runs)
    return (
        f"of {runs[0]['data']['sizes'][2]:,} test examples {both} are wrong in both runs, {b} in "
        f"{first} alone, {c} in {second} alone: p = {sign_test(b, c):.3g} (McNemar's exact test)"
    )


def table(comparisons: dict[str, list[tuple[store.Run, store.Run]]]) -> str:
    """Return the test of each pair of runs that both stored their answers, and count the other pairs."""
    lines = []
    for name, paired in comparisons.items():
        tested = [pair for pair in paired if all("wrong_answers" in run for run in pair)]
        for first, second in tested:
            both, b, c = discordant(first, second)
            lines.append([name, f"`{first['run']}`", f"`{second['run']}`", both, b, c, f"{sign_test(b, c):.2g}"])
        if left := len(paired) - len(tested):
            lines.append([name, f"{left} of {len(paired)} pairs without stored answers", *["-"] * 5])
    header = ["comparison", "first run", "second run", "wrong in both", "in the first only", "in the second only", "p"]
    return markdown(header, lines)


def _run(name: str) -> store.Run:
    found = next((run for run in store.load(name.partition("/")[0]) if run.get("run") == name), None)
    if found is None:
        raise ValueError(f"runs: expected the name of a stored run, such as mnist/lstm-R50-seed0, got {name!r}")
    if not {"wrong_answers", "data"} <= found.keys():
        raise ValueError(f"runs: expected a run of digits or faces with its answers, got {name}, which has none stored")
    return found
