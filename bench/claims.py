"""Make the table of the paper's claims: the paper's numbers, ours, a control, and the verdict.

Each verdict follows from a rule in the code, so a new run can change it. A missing figure is NaN, which makes a rule
false. Controls without runs are left out of a rule, and the verdict says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import inf, nan
from statistics import median
from typing import Any, NamedTuple

from tasks.catch import LEARNED
from tasks.figures.style import NAMES_OF_AGENTS
from tasks.retrieval import key_blind_floor

from . import agents, cells, controls, sensitivity, tables
from .cells import of
from .plans.retrieval import sensitivity_group
from .published import FIGURE_2, FIGURE_5, NAMES, TABLE_1, TABLE_2, TABLE_3, Cells
from .report import markdown
from .seeds import MEASURES, median_and_range, outcomes, pairs
from .store import Run, load

FIGURES = MEASURES | {
    "accuracy": lambda run: 1 - run["test_error"],
    "frames": lambda run: agents.frames_to_pass(run) or inf,
    "reward": lambda run: run["mean_reward"],
}
FRAMES: dict[str, Any] = {"measure": "frames", "decimals": 1, "scale": 1, "unit": ""}  # in millions
REWARD: dict[str, Any] = {"measure": "reward", "decimals": 3, "scale": 1, "unit": ""}
RETRIEVES = 0.1  # nats: the validation loss that counts as having learned retrieval
FEW = 0.95  # of the key-blind floor: a higher error is no retrieval


class Claim(NamedTuple):
    """A line of the table."""

    claim: str
    paper: str
    here: str
    control: str
    verdict: str


class Entry(NamedTuple):
    """The runs of one cell, and the name that the table gives them."""

    name: str
    runs: list[Run]

    def figures(self, measure: str = "test error") -> list[float]:
        """Return the figure of each run."""
        return [FIGURES[measure](run) for run in self.runs]

    def middle(self, measure: str = "test error") -> float:
        """Return the median figure, or NaN without runs."""
        return median(self.figures(measure) or [nan])


def table_and_tally() -> dict[str, str]:
    """Return the table of claims from the stored runs, and the number of claims with each verdict."""
    found = [*_of_retrieval(), *_of_the_memory(), *_of_digits(), *_of_faces(), *_of_catch()]
    counts = Counter(claim.verdict.partition(",")[0].removesuffix(" on held-out digits") for claim in found)
    return {
        "claims": markdown([*Claim._fields], found),
        "claims-tally": markdown(["verdict", "claims"], counts.most_common()),
    }


def _of_retrieval() -> Iterable[Claim]:
    runs = cells.retrieval()
    cell = {(layer, size): Entry(NAMES[layer], of(runs, layer, size)) for layer in TABLE_1 for size in (20, 50, 100)}
    for size in (20, 50):
        ours, others = cell["fast_weights", size], [cell[layer, size] for layer in tables.BASELINES]
        with_layer_norm = _with_layer_norm(runs, size)
        controls_run = [entry for entry in with_layer_norm if entry.runs]
        holds = all(ours.middle() < other.middle() for other in [*others, *controls_run])
        yield Claim(
            f"Retrieval, R = {size}: fast weights have the lowest error", _published(TABLE_1, size, *TABLE_1),
            _figures(ours, *others), _figures(*with_layer_norm), _verdict_with(with_layer_norm, holds),
        )  # fmt: skip
    for layer, has in (("fast_weights", "fast weights have"), ("lstm", "LSTM has"), ("associative_lstm", "A-LSTM has")):
        entry = cell[layer, 100]
        yield Claim(
            f"Retrieval, R = 100: {has} no test error", _published(TABLE_1, 100, layer), _figures(entry),
            _figures(*_with_layer_norm(runs, 100)), _verdict(entry.middle() == 0),
        )  # fmt: skip
    floor = key_blind_floor(4)[0]
    for layer, size in (("irnn", 20), ("irnn", 50), ("lstm", 20), ("associative_lstm", 20)):
        yield Claim(
            f"Retrieval, R = {size}: {NAMES[layer]} does not learn to retrieve", _published(TABLE_1, size, layer),
            _figures(cell[layer, size]), f"key-blind floor {100 * floor:.2f} %",
            _verdict(cell[layer, size].middle() > FEW * floor),
        )  # fmt: skip
    ours, others = cell["fast_weights", 50], [cell[layer, 50] for layer in tables.BASELINES]
    with_layer_norm = _with_layer_norm(runs, 50)
    controls_run = [entry for entry in with_layer_norm if entry.runs]
    soonest = [min(map(_updates, other.runs), default=nan) for other in [*others, *controls_run]]
    holds = all(max(map(_updates, ours.runs), default=nan) < each for each in soonest)
    yield Claim(
        f"Retrieval, R = 50: fast weights need the fewest updates (here: to a loss of {RETRIEVES} nats)", FIGURE_2,
        _all_updates(ours, *others), _all_updates(*with_layer_norm), _verdict_with(with_layer_norm, holds),
    )  # fmt: skip


def _of_the_memory() -> Iterable[Claim]:
    usual = Entry("λ = 0.9, η = 0.1:", of(cells.retrieval(), "fast_weights", 50))
    at_a_diverged_trial = Entry("λ = 1, η = 0.03, which diverges without:", load(sensitivity_group(1.0, 0.03, 1)))
    without = Entry("without", load("retrieval-generalization-no-layer-norm"))
    searches = [search for search in load("search") if "--layer-norm False" in " ".join(search["options"])]
    losses = {
        _pairs_of(search["options"]): [trial["validation_nll"] for trial in search["trials"]] for search in searches
    }
    diverged = [f"K = {K}: {each.count(None)} of {len(each)} trials diverged" for K, each in sorted(losses.items())]
    yield Claim(
        "Without layer norm, products of states can explode", "no numbers",
        f"K = 4, η = 0.01: {_figures(without)}; searches of λ and η, {', '.join(diverged)}",
        f"with layer norm, K = 4: {_figures(usual, at_a_diverged_trial)}",
        _verdict(any(None in each for each in losses.values())),
    )  # fmt: skip
    once, twice = Entry("S = 1", usual.runs), Entry("S = 2", load(sensitivity_group(0.9, 0.1, 2)))
    similar = min(once.figures(), default=inf) <= max(twice.figures(), default=0) and (
        min(twice.figures(), default=inf) <= max(once.figures(), default=0)
    )
    yield Claim(
        "Retrieval, R = 50: more inner steps S have similar results", "no numbers", _figures(once, twice),
        _lowest_by_inner_steps(), "supported" if similar else "undecided" if twice.runs else "not tested here",
    )  # fmt: skip


def _lowest_by_inner_steps() -> str:
    """Return the lowest median error among all λ and η, for each S that has runs."""
    medians: dict[int, list[float]] = {}
    for (_, _, S), errors in sensitivity.errors().items():
        medians.setdefault(S, []).append(median(errors))
    lowest = (f"S = {S} {min(each):.3f} % (of {len(each)})" for S, each in sorted(medians.items()))
    return f"lowest median of λ and η: {', '.join(lowest)}" if medians else "none"


def _of_digits() -> Iterable[Claim]:
    runs, decayed, normalized = cells.digits(), load("mnist-weight-decay"), load("mnist-layer-norm")

    def at(sizes: Sequence[int], layer: str, among: list[Run] = runs) -> list[Entry]:
        return [Entry(NAMES[layer], of(among, layer, size)) for size in sizes]

    def lower(first: list[Entry], second: list[Entry], measure: str = "test error") -> bool:
        return all(a.middle(measure) < b.middle(measure) for a, b in zip(first, second, strict=True))

    def won(among: list[Run], measure: str) -> str:
        cells_of = [(of(among, "multilevel", size), of(among, "lstm", size)) for size in TABLE_2["irnn"]]
        both = [pair for first, second in cells_of for pair in pairs(first, second)]
        return f"{measure} {' / '.join(map(str, outcomes(both, MEASURES[measure])))}"

    sizes = tuple(TABLE_2["irnn"])
    ours, lstm, irnn, control = (
        at(sizes, layer, among)
        for layer, among in (("multilevel", runs), ("lstm", runs), ("irnn", runs), ("irnn", normalized))
    )
    held_out = lower(ours, lstm, "held-out error")
    where = f"Digits, R = {', '.join(map(str, sizes))}"
    yield Claim(
        f"{where}: fast weights have a lower error than the LSTM", _published(TABLE_2, sizes, "multilevel", "lstm"),
        _by_size(ours, lstm),
        f"wins / ties / losses of fast weights: {won(runs, 'test error')}, {won(runs, 'held-out error')}; with weight "
        f"decay: {won(decayed, 'test error')}, {won(decayed, 'held-out error')}",
        _verdict(lower(ours, lstm) and held_out) + ("" if held_out else " on held-out digits"),
    )  # fmt: skip
    yield Claim(
        f"{where}: fast weights have a lower error than the IRNN", _published(TABLE_2, sizes, "multilevel", "irnn"),
        _by_size(ours, irnn), f"with layer norm: {_by_size(control)}",
        _verdict(lower(ours, irnn) and lower(ours, control)) + ", cause unknown",
    )  # fmt: skip
    for first, second, chosen in (("convnet", "multilevel", (50, 100)), ("multilevel", "convnet", (200,))):
        both = at(chosen, first), at(chosen, second)
        yield Claim(
            f"Digits, R = {', '.join(map(str, chosen))}: lower error of {NAMES[first]} than of {NAMES[second]}",
            _published(TABLE_2, chosen, first, second), _by_size(*both), "none", _verdict(lower(*both)),
        )  # fmt: skip


def _of_faces() -> Iterable[Claim]:
    groups = {"FER-2013": "faces", "without duplicates": "faces-no-duplicates", "synthetic": "faces-synthetic"}
    for best, others in (("multilevel", ("lstm", "irnn")), ("convnet", ("multilevel",))):
        layers, texts, orders = (best, *others), [], []
        for name, group in groups.items():
            runs = load(group)
            first, *rest = (Entry(NAMES[layer], of(runs, layer, 200)) for layer in layers)
            if group == "faces" or all(entry.runs for entry in (first, *rest)):
                texts.append(f"{name}: {_figures(first, *rest, measure='accuracy', decimals=2)}")
                orders.append(all(first.middle() < other.middle() for other in rest))
        yield Claim(
            f"Faces, R = 200: higher accuracy of {NAMES[best]} than of {' and '.join(NAMES[x] for x in others)}",
            f"Multi-PIE: {_published(TABLE_3, 200, *layers)}", texts[0], "; ".join(texts[1:]) or "none",
            f"not testable here; on other faces {_verdict(all(orders))}",
        )  # fmt: skip


def _of_catch() -> Iterable[Claim]:
    runs, controls_of = load("catch"), [(name, layer, load(group)) for name, layer, group in agents.CONTROLS]
    for game, theirs in FIGURE_5.items():
        ours, lstm, rnn = (
            Entry(NAMES_OF_AGENTS[layer], agents.of_game(runs, game, layer))
            for layer in ("fast_weights", "lstm", "irnn")
        )
        control = [Entry(name, agents.of_game(of_control, game, layer)) for name, layer, of_control in controls_of]
        name = f"Catch, N = {game[0]}, M = {game[1]}"
        yield Claim(
            f"{name}: fast weights learn sooner than the LSTM (reward {LEARNED})",
            f"Fast weights {theirs['fast_weights'][0]}; LSTM {theirs['lstm'][0]} of its steps",
            f"millions of frames: {_figures(ours, lstm, **FRAMES)}", _figures(*control, **FRAMES),
            _verdict(ours.middle("frames") < lstm.middle("frames")),
        )  # fmt: skip
        yield Claim(
            f"{name}: fast weights end with a higher reward than the ReLU RNN",
            f"Fast weights {theirs['fast_weights'][1]}; ReLU RNN {theirs['irnn'][1]}", _figures(ours, rnn, **REWARD),
            _figures(*control, **REWARD), _verdict(ours.middle("reward") > rnn.middle("reward")),
        )  # fmt: skip


def _with_layer_norm(runs: list[Run], size: int) -> list[Entry]:
    """Return the baselines of table 1 with layer norm, those without runs too; an LSTM without them of the controls."""
    rows = [Entry(name, of(more, layer, size)) for name, layer, more, _ in tables.normalized()]
    lstm = f"{NAMES['lstm']}, layer norm"
    return [
        entry if entry.runs or entry.name != lstm else Entry(lstm, controls.lstm_runs("layer norm", size, runs))
        for entry in rows
    ]


def _pairs_of(options: Sequence[str]) -> int:
    """Return K of the trials of a search with these options of the command line."""
    words = " ".join(options).replace("=", " ").split()
    return int(words[words.index("--pairs") + 1]) if "--pairs" in words else 4


def _updates(run: Run) -> float:
    """Return the updates after which the validation loss was first below RETRIEVES, or infinity."""
    return next((line["update"] for line in run["curve"] if line["validation_nll"] < RETRIEVES), inf)


def _verdict(holds: bool) -> str:
    return "supported" if holds else "not supported"


def _verdict_with(controls_planned: list[Entry], holds: bool) -> str:
    """Return the verdict, which says if controls without runs were left out of a rule that holds."""
    some_not_run = holds and not all(entry.runs for entry in controls_planned)
    return _verdict(holds) + (", some controls not run" if some_not_run else "")


def _published(of_the_paper: Cells, sizes: int | Sequence[int], *layers: str) -> str:
    """Return the paper's numbers, R by R."""
    chosen = [sizes] if isinstance(sizes, int) else sizes
    numbers = [(layer, ", ".join(f"{of_the_paper[layer][size]:.2f} %" for size in chosen)) for layer in layers]
    return "; ".join(f"{NAMES[layer]} {text}" for layer, text in numbers)


def _figures(
    *entries: Entry, measure: str = "test error", decimals: int = 3, scale: float = 100, unit: str = " %"
) -> str:
    """Return the median and range of each entry's figure."""

    def text(entry: Entry) -> str:
        return median_and_range([scale * each for each in entry.figures(measure)], decimals, unit)

    return _listed(entries, text)


def _by_size(*rows: list[Entry]) -> str:
    """Return the median and range of the test error of each layer, R by R."""
    return "; ".join(
        f"{row[0].name} {', '.join(_figures(entry, decimals=2).removeprefix(f'{entry.name} ') for entry in row)}"
        for row in rows
    )


def _all_updates(*entries: Entry) -> str:
    """Return the updates of every run, or "never"."""

    def text(entry: Entry) -> str:
        return ", ".join("never" if count == inf else f"{count:,}" for count in map(_updates, entry.runs))

    return _listed(entries, text)


def _listed(entries: Iterable[Entry], text: Callable[[Entry], str]) -> str:
    return "; ".join(f"{entry.name} {text(entry) if entry.runs else 'not run'}" for entry in entries) or "none"
