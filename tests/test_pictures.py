"""The pictures: colours by layer, titles, attention whose cells match their colour bar, and bars of stored ratios."""

from __future__ import annotations

import json
import re
from statistics import mean
from typing import get_args, get_type_hints

import matplotlib
import numpy
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from bench import agents, capacity, cells, generalization, paper, report, speed, store
from fastweights_np.network import LAYERS
from tasks import catch, fast_slow, figures, longrecall, mnist, retrieval
from tasks.figures import style
from tasks.running.layers import TAKES

RETRIEVAL = retrieval.Settings(hidden_size=20, seed=3)


@pytest.fixture
def drawn(tmp_path, monkeypatch, pictures):
    """The figures that were saved, in order, without rendering them; the output folder is temporary."""
    found: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: found.append(figure))
    monkeypatch.setattr(report, "output", tmp_path)
    return found


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


# ------------------------------------------------------------------------------------------------------------- colours


def test_every_layer_of_the_tasks_has_a_name_and_a_colour_of_its_own():
    assert set(style.LAYERS) == set(TAKES)
    assert len(set(style.NAMES.values())) == len(TAKES)
    arms = set(get_args(get_type_hints(longrecall.Settings)["layer"]))
    rules = {layer for layer in TAKES if layer not in (*LAYERS, "convnet")} - arms
    for together in (rules, arms, TAKES.keys() - rules - arms):  # no picture shows two of these kinds
        assert len({to_hex(style.COLOURS[layer]) for layer in together}) == len(together)


def test_a_layer_has_its_colour_in_every_figure_of_the_bench_and_its_variants_differ_by_line(drawn):
    paper.figure_2(cells.retrieval(), [])
    capacity.make([])
    agents.figure_5([])
    generalization.make([])
    assert len(drawn) == 4
    layers = {"ReLU RNN": "irnn"} | {name: layer for layer, name in style.NAMES.items()}
    for figure in drawn:
        for axes in figure.axes:
            lines = [line for line in axes.lines if line.get_color() not in ("black", "grey")]
            for line in lines:
                assert to_hex(line.get_color()) == to_hex(style.COLOURS[layers[line.get_label().partition(",")[0]]])
                assert (line.get_linestyle() == "-") == (line.get_label() in [*layers, "Fast weights, λ = 0.9"])
            assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines)


def test_a_run_is_drawn_in_the_colour_of_its_layer(drawn, tmp_path):
    curve = [{"update": 1, "train_loss": 1.0, "validation_nll": 2.0, "validation_error": 0.5}]
    figures.learning_curve(tmp_path / "x.png", retrieval.Settings(layer="lstm"), curve, 1.0, 0.6)
    figures.reward_curve(tmp_path / "x.png", catch.Settings(layer="irnn"), [{"frames": 1.0, "mean_reward": 0.5}], -0.75)
    for figure, layer in zip(drawn, ("lstm", "irnn"), strict=True):
        for axes in figure.axes:
            assert style.COLOURS[layer] in [line.get_color() for line in axes.lines]


def test_trials_of_a_search_have_their_layers_colour_and_the_best_is_filled(drawn, tmp_path):
    trials = [{"layer": layer, "validation_nll": nll} for layer, nll in (("lstm", 0.5), ("irnn", 0.7), ("lstm", None))]
    figures.search(tmp_path / "x.png", RETRIEVAL, trials, {"layer": ["lstm", "irnn"]})
    lines = drawn[0].axes[0].lines
    marks = [(line.get_color(), line.get_fillstyle()) for line in lines if len(line.get_xdata())]
    assert marks == [(style.COLOURS["lstm"], "full"), (style.COLOURS["irnn"], "none")]
    assert "R = 20, seed 3" in texts(drawn[0])  # the layer varies


# -------------------------------------------------------------------------------------------------------------- titles


@pytest.mark.parametrize(
    ("settings", "title"),
    [
        (RETRIEVAL, "Fast weights, R = 20, seed 3"),
        (mnist.Settings(), "Multi-level fast weights, R = 50, seed 0"),
        (mnist.Settings(layer="convnet", hidden_size=100), "ConvNet, R = 100, seed 0"),
        (catch.Settings(layer="irnn", seed=1), "ReLU RNN, R = 128, seed 1"),
    ],
)
def test_a_title_has_the_layer_r_and_the_seed(settings, title):
    assert style.title(settings) == title


@pytest.mark.parametrize(
    ("runs", "words"),
    [([], "0 seeds"), ([[1]], "1 seed"), ([[1] * 3, [2] * 3], "3 seeds"), ([[1], [2, 3]], "1 to 2 seeds")],
)
def test_titles_count_the_seeds(runs, words):
    assert report.of_seeds(runs) == words


def test_the_figures_of_the_bench_name_r_and_the_seeds(drawn):
    runs = cells.retrieval()
    paper.figure_2([run for run in runs if run["settings"]["seed"] < 2], [])
    assert "Associative retrieval, R = 50: mean and range of 2 seeds" in texts(drawn[0])


def test_a_band_has_the_mean_and_the_range_of_the_seeds():
    axes = Figure().add_subplot()
    style.band(axes, [1, 2], [[0.0, 4.0, 5.0], [1.0, 1.0]], mean, "lstm", "LSTM")
    assert list(axes.lines[0].get_ydata()) == [3.0, 1.0]
    corners = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == (0.0, 5.0)


# ----------------------------------------------------------------------------------------------------------- attention


def test_attention_has_the_whole_string_and_hatches_the_query(drawn, tmp_path):
    strengths = numpy.array([[0.1, 0.9, 0.0], [0.2, 0.0, 0.4]])
    figures.attention(tmp_path / "x.png", RETRIEVAL, ["a1?a", "b2?b"], ["answer 1", "answer 2"], strengths)
    for axes, string, row in zip(drawn[0].axes, ("a1?a", "b2?b"), strengths, strict=False):
        assert "".join(label.get_text() for label in axes.get_xticklabels()) == string
        cells = axes.images[0].get_array()
        numpy.testing.assert_array_equal(cells[0, :-1], row)
        assert list(numpy.ma.getmaskarray(cells)[0]) == [False, False, False, True]
        assert axes.patch.get_hatch()
    assert any(text.startswith("Fast weights, R = 20, seed 3") for text in texts(drawn[0]))
    assert not any("λ" in text for text in texts(drawn[0]))


def test_cells_of_attention_to_places_match_their_colour_bar_and_strong_is_bright(tmp_path, pictures):
    strengths = [numpy.array([[2.0]]), numpy.array([[1.0, 4.0]])]
    places = [(0, 0, 4), (0, 4, 4), (4, 0, 4), (4, 4, 4)]
    path = tmp_path / "x.png"
    figures.attention_to_places(path, mnist.Settings(), numpy.full((1, 8, 8), 255, "uint8"), ["7"], strengths, places)
    pixels = (255 * matplotlib.image.imread(path)[..., :3]).round().astype(int).reshape(-1, 3)
    of_the_bar = matplotlib.colormaps["inferno"](numpy.array([1.0, 2.0, 4.0]) / 4, bytes=True)[:, :3].astype(int)
    for colour in of_the_bar:
        assert (pixels == colour).all(axis=1).sum() > 1000, "a cell without the image below it"
    assert (numpy.diff(of_the_bar.sum(axis=1)) > 0).all(), "strong is bright"


def test_places_that_were_not_seen_yet_are_hatched(drawn, tmp_path):
    strengths = [numpy.array([[2.0]]), numpy.array([[1.0, 4.0]])]
    images, places = numpy.zeros((1, 8, 8), "uint8"), [(0, 0, 4), (0, 4, 4), (4, 0, 4), (4, 4, 4)]
    figures.attention_to_places(tmp_path / "x.png", mnist.Settings(), images, ["7"], strengths, places)
    _, *steps = [axes for axes in drawn[0].axes if axes.images and axes.get_title()]
    assert len(steps) == 2
    for axes, step in zip(steps, strengths, strict=True):
        cells = axes.images[0].get_array()
        seen = {places[n]: strength for n, strength in enumerate(step[0])}
        for row, column, side in places:
            square = cells[row : row + side, column : column + side]
            expected = seen.get((row, column, side))
            assert square.mask.all() if expected is None else (square == expected).all()
        assert axes.patch.get_hatch()


# --------------------------------------------------------------------------------------------------------------- speed


def test_the_bars_of_speed_are_the_ratios_of_its_table(drawn):
    paper.figure_of_speed(missing := [])
    rows = re.findall(r"^\| ([\d, ]+|geometric mean) \|.*\| \*\*([\d.]+)\*\* \| ([\d.]+) \|$",
                      (store.STORE / "speed.md").read_text(), re.MULTILINE)  # fmt: skip
    assert len(rows) == len(speed.SIZES) + 1
    assert not missing
    axes = drawn[0].axes[0]
    assert [label.get_text().replace("\n", " ") for label in axes.get_xticklabels()] == [size for size, *_ in rows]
    for bars, column in zip(axes.containers, (1, 2), strict=True):
        assert [f"{bar.get_height():.2f}" for bar in bars] == [row[column] for row in rows]


def test_a_measurement_without_pytorch_has_bars_for_the_fastest_peer_alone(drawn):
    rows = json.loads((store.STORE / "speed.json").read_text())["figures"][:1]
    rows[0]["times"] = {name: time for name, time in rows[0]["times"].items() if "PyTorch" not in name}
    speed.draw(rows, "lstm", "speed")
    heights = [[bar.get_height() for bar in bars] for bars in drawn[0].axes[0].containers]
    assert numpy.isfinite(heights[0]).all()
    assert numpy.isnan(heights[1]).all()


def test_no_stored_measurement_of_speed_is_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "STORE", tmp_path)
    paper.figure_of_speed(missing := [])
    assert missing == ["the figure of speed: python -m bench speed --store"]


# -------------------------------------------------------------------------------------------- contexts, long contexts


def ticks(axes) -> list[str]:
    """Return the labels of x that lie within the axis."""
    first, last = axes.get_xlim()
    return [label.get_text() for label in axes.get_xticklabels() if first <= label.get_position()[0] <= last]


@pytest.mark.parametrize("kl", [0.0, 1e-6, 5e-4, 2e-3, 0.5, 5.0])
@pytest.mark.parametrize("method", ["both", "slow"])
def test_rewards_of_one_policy_are_named_by_its_contexts_and_every_drift_has_ticks(method, kl, drawn, tmp_path):
    curve = [
        {"stage": 0, "episodes": 1000 * n, "reward": 0.2 * n, "neutral_reward": 0.1 * n, "kl": kl * n} for n in (1, 2)
    ]
    settings = fast_slow.Settings(method=method, tasks=1)
    figures.contexts_curve(tmp_path / "x.png", settings, curve, ["task 1"], 0.2)
    (figure,) = drawn
    figure.draw_without_rendering()
    episodes, drift, *_ = figure.axes
    labels = ["weights alone"] if method == "slow" else ["with contexts", "without contexts"]
    assert episodes.get_legend_handles_labels()[1] == [*labels, "by chance"]
    assert len(ticks(drift)) >= 2


def test_distances_are_named_by_their_bins_and_steps_and_reads_by_what_they_are(drawn, tmp_path):
    settings = longrecall.Settings()
    found = {"from": [32, 64], "accuracy": [0.5, 0.25]}
    figures.accuracy_by_distance(tmp_path / "x.png", settings, found, None, 1 / 32, 16)
    figures.writes(tmp_path / "y.png", settings, numpy.ones((1, 4)), ["k1", "v1", ".", "k1"], [3], 2)
    distance, writes = drawn
    distance.draw_without_rendering()
    assert ticks(distance.axes[0]) == ["32–47", "64–79"]
    assert {"steps, by their tokens", "norm of what is read (no unit)"} <= {*texts(writes)}
