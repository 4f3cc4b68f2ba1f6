"""The fast weight programmer as its users meet it: limits, long sequences, what is refused. The audit has gradients."""

from __future__ import annotations

import copy
import pickle
import re
import tracemalloc
from itertools import product

import numpy
import pytest

from fastweights_np import checkpoint, features, key_value_memory, ops, optim
from fastweights_np import fast_weight_programmer as layer
from fastweights_np.audit.programmer import Case, programmer_links
from fastweights_np.chunks import inverse
from fastweights_np.features import NORMALIZATIONS
from fastweights_np.memory import Memory

T, B, I, N, D_K, D_V = 9, 3, 5, 2, 4, 3  # noqa: E741
LONG = 8192
WRITES = numpy.arange(T * B).reshape(T, B) % 3 > 0


def problem(rule="delta", steps=T, dtype="float64", seed=0):
    """Parameters, x and dy."""
    rng = numpy.random.default_rng(seed)
    params = layer.init(rng, I, D_K, D_V, N, rule, dtype=dtype)
    params = {name: value + 0.3 * rng.standard_normal(value.shape).astype(dtype) for name, value in params.items()}
    return params, *(rng.standard_normal((steps, B, size)).astype(dtype) for size in (I, N * D_V))


def results(params, x, dy, **options):
    """All that a forward and a backward return."""
    y, cache = layer.forward(params, x, **options)
    grads, dx, dstate0 = layer.backward(dy, cache)
    return {"y": y, "x": dx, "S0": dstate0.S, "S(T)": layer.final_state(cache).S} | grads


def assert_close(got, expected, rtol=1e-12):
    for name, value in expected.items():
        scale = max(abs(value).max(), 1e-3)
        numpy.testing.assert_allclose(got[name] / scale, value / scale, rtol=0, atol=rtol, err_msg=name)


def random_memory(steps, dtype="float64", size=4, heads=2, batch_size=1):
    rng = numpy.random.default_rng(1)
    q, k, v, do = (rng.standard_normal((steps, batch_size, heads, size)) for _ in range(4))
    k /= numpy.linalg.norm(k, axis=-1, keepdims=True)
    beta = rng.random((steps, batch_size, heads))
    return [each.astype(dtype) for each in (q, k, v, do, beta)]


# ------------------------------------------------------------------------------------------------ how rules are related


def test_gated_delta_with_a_gate_of_1_is_delta():
    params, x, dy = problem("gated_delta")
    open_gate = params | {"gate": 0 * params["gate"], "gate_bias": numpy.full(N, 50.0)}
    delta = {name: value for name, value in params.items() if "gate" not in name}
    assert_close(results(open_gate, x, dy), results(delta, x, dy))


def test_a_gate_that_does_not_depend_on_x_is_a_decay_and_a_constant_decay_is_the_option():
    params, x, dy = problem("gated")
    decaying = {name: value for name, value in params.items() if name != "gate"} | {"gate_bias": numpy.full(N, 1.0)}
    expected = results(decaying, x, dy)
    assert_close(results(decaying | {"gate": numpy.zeros((N, I))}, x, dy), expected)
    adding = {name: decaying[name] for name in "KVQ"}
    assert_close(expected, results(adding, x, dy, decay=1 / (1 + numpy.exp(-1.0))))
    assert_close(results(adding, x, dy, decay=1.0), results(adding, x, dy))


def test_delta_with_a_small_beta_is_the_sum_times_beta():
    """The memory erases β² of what it adds."""
    params, x, dy = problem("delta")
    small = params | {"beta": numpy.zeros((N, I)), "beta_bias": numpy.full(N, numpy.log(1e-9))}
    got = results(small, x, dy)
    expected = results({name: params[name] for name in "KVQ"}, x, dy, normalization="l2")
    assert_close({name: got[name] / 1e-9 for name in ("y", "x", "S(T)", "K", "V", "Q")},
                 {name: expected[name] for name in ("y", "x", "S(T)", "K", "V", "Q")}, rtol=1e-7)  # fmt: skip


def test_it_is_the_memory_of_the_recurrent_layers_if_keys_and_values_are_states():
    rng = numpy.random.default_rng(0)
    states = rng.standard_normal((T, B, 4))
    memory = Memory(states, [1] * (T + 1), chunk=3)
    memory.start(0.8, 0.3)
    h = states[:, :, None]
    o, cache = key_value_memory.forward(h, h, 0.3 * h, log_decay=float(numpy.log(0.8)), chunk=4)
    numpy.testing.assert_allclose(key_value_memory.final_state(cache)[:, 0], memory.matrix(T), atol=1e-13)
    for n in range(T):
        memory.queries[n + 1][...] = states[n]
        numpy.testing.assert_allclose(o[n, :, 0], memory.read(n + 1, 0, memory.queries[n + 1]), atol=1e-13)


def test_the_delta_rule_stores_the_last_value_of_a_key_and_the_sum_all_of_them():
    keys = numpy.eye(2)[[0, 1, 0]][:, None, None]
    values = numpy.array([1.0, 2.0, 5.0])[:, None, None, None]
    for delta, expected in ((True, [5.0, 2.0]), (False, [6.0, 2.0])):
        _, cache = key_value_memory.forward(keys, keys, values, delta=delta, chunk=2)
        numpy.testing.assert_array_equal(key_value_memory.final_state(cache)[0, 0, 0], expected)


@pytest.mark.parametrize("rule", ["sum", "decay", "gated_delta"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_threads_share_sequences_or_heads(rule, batch_size):
    params, x, dy = problem(rule)
    x, dy, writes = x[:, :batch_size], dy[:, :batch_size], WRITES[:, :batch_size]
    state = layer.State(numpy.random.default_rng(2).standard_normal((batch_size, N, D_V, D_K)))
    options = {"state": state, "writes": writes, "resets": ~writes, "chunk": 4}
    expected = results(params, x, dy, **options)
    for threads in (2, 3, 9):
        assert_close(results(params, x, dy, **options, threads=threads), expected, 1e-14)
    y, _ = layer.forward(params, x, **options, threads=2, gradients=False)
    numpy.testing.assert_allclose(y, expected["y"], atol=1e-14)


@pytest.mark.parametrize("rule", layer.RULES)
def test_a_step_that_only_reads_changes_nothing(rule):
    params, x, _ = problem(rule)
    alone = numpy.ones((T, B), bool)
    alone[-1] = False
    y, cache = layer.forward(params, x, writes=alone)
    _, before = layer.forward(params, x[:-1])
    numpy.testing.assert_allclose(layer.final_state(cache).S, layer.final_state(before).S, atol=1e-14)
    other, _ = layer.forward(params, numpy.concatenate([x, x[-1:]]), writes=alone[[*range(T), -1]])
    numpy.testing.assert_allclose(other[[-1, -2]], y[[-1, -1]], atol=1e-14)


def combinations(rule):
    """Every feature map, normalization and attention normalization that a rule takes."""
    for feature_map, normalization, divided in product(("identity", "elu", "dpfp-2"), NORMALIZATIONS, (False, True)):
        if (feature_map == "identity" and (normalization == "sum" or divided)) or (divided and "delta" in rule):
            continue
        decay = 0.8 if rule in ("sum", "delta") else 1.0
        yield Case(rule, 1, decay, feature_map, normalization, divided, steps=3, heads=1, value_size=2)


@pytest.mark.parametrize("rule", layer.RULES)
def test_every_combination_of_options_passes_the_audit(rule):
    """All forms are equal, for every chunk size, with a carried state and its gradient, lengths and resets."""
    pytest.importorskip("autograd", reason="autograd comes with the test extra")
    links = programmer_links(tuple(combinations(rule)), True, False, lambda tree: tree)
    assert [(link.title, link.where) for link in links if not link.passed] == []
    assert len(links) == 8


# -------------------------------------------------------------------------------------------------- numbers stay finite


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("decay", [1e-6, 0.5, 0.999, 1.0, "gate", "mixed"])
@pytest.mark.parametrize("kind", ["random", "unnormalized", "repeated", "zero"])
def test_long_sequences_in_float32_agree_with_float64(kind, decay, delta):
    """8192 steps. Keys of the delta rule are as long as β |k|² < 2 allows: there the recurrence itself is finite."""
    q, k, v, do, beta = random_memory(LONG, "float32")
    if kind == "unnormalized":
        k = k * (numpy.sqrt(1.9 / beta) if delta else numpy.float32(30))[..., None]
        k = k.astype("float32")
    elif kind == "repeated":
        k, beta = numpy.broadcast_to(k[:1], k.shape), numpy.ones_like(beta)
    elif kind == "zero":
        k = 0 * k
    rng = numpy.random.default_rng(2)
    logs = {"gate": -rng.exponential(1.0, beta.shape), "mixed": numpy.where(rng.random(beta.shape) < 0.5, -50.0, -1e-3)}
    log_decay = logs[decay].astype("float32") if decay in logs else float(numpy.log(decay))
    found = []
    for dtype in ("float32", "float64"):
        given = [each.astype(dtype) for each in (q, k, v)]
        of_log = log_decay if isinstance(log_decay, float) else log_decay.astype(dtype)
        o, cache = key_value_memory.forward(*given, None, beta.astype(dtype) if delta else None, of_log, delta=delta)
        found.append({"o": o} | key_value_memory.backward(do.astype(dtype), cache)._asdict())
    for name, expected in found[1].items():
        if expected is None:
            continue
        assert found[0][name].dtype == "float32", name
        scale = max(abs(expected).max(), 1e-2)
        worst = abs(found[0][name] - expected).max() / scale
        assert worst < 1e-3, (name, worst)


def test_the_inverse_is_accurate_where_powers_would_cancel():
    lower = numpy.tril(numpy.ones((64, 64), "float32"), -1)  # equal keys of length 1, with β = 1
    expected = numpy.eye(64) - numpy.eye(64, k=-1)
    numpy.testing.assert_array_equal(inverse(lower), expected)
    for rows in (1, 2, 3, 13, 64):
        lower = numpy.tril(numpy.random.default_rng(0).standard_normal((3, rows, rows)), -1) / 4
        numpy.testing.assert_allclose(inverse(lower) @ (numpy.eye(rows) + lower), [numpy.eye(rows)] * 3, atol=1e-12)


def test_a_reset_ends_what_no_gate_does():
    """Whatever came before, also where γ is 1, and a γ of almost 0 leaves no trace in the logs after it."""
    params, x, dy = problem("gated_delta")
    for bias in (-200.0, 200.0):
        shut = params | {"gate": 0 * params["gate"], "gate_bias": numpy.full(N, bias)}
        resets = numpy.zeros((T, B), bool)
        resets[4] = True
        got = results(shut, x, dy, resets=resets)
        parts = [results(shut, x[part], dy[part]) for part in (slice(4), slice(4, None))]
        whole = {name: numpy.concatenate([each[name] for each in parts]) for name in ("y", "x")}
        whole |= {name: parts[0][name] + parts[1][name] for name in params}
        assert_close(got, whole | {"S(T)": parts[1]["S(T)"], "S0": parts[0]["S0"]})


# ---------------------------------------------------------------------------------------------- arrays and their owners


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", layer.RULES)
def test_dtype_and_shapes_are_kept_and_arguments_unchanged(rule, dtype):
    params, x, dy = problem(rule, dtype=dtype)
    state = layer.State(numpy.ones((B, N, D_V, D_K), dtype))
    given = [*params.values(), x, dy, state.S]
    before = [each.copy() for each in given]
    y, cache = layer.forward(params, x, state, writes=WRITES, lengths=numpy.array([9, 2, 5]))
    grads, dx, dstate0 = layer.backward(dy, cache, layer.final_state(cache))
    y_step, next_state = layer.step(params, x[0], state)
    assert grads.keys() == params.keys()
    shapes = {"y": (y, dy.shape), "x": (dx, x.shape), "S0": (dstate0.S, state.S.shape), "step": (y_step, dy[0].shape)}
    shapes |= {"S": (next_state.S, state.S.shape)} | {name: (grads[name], params[name].shape) for name in params}
    for name, (array, shape) in shapes.items():
        assert (array.dtype, array.shape) == (dtype, shape), name
    expected = layer.backward(dy, cache)[0]
    for array in (y, dx, dstate0.S, layer.final_state(cache).S, *grads.values()):
        array[...] = numpy.nan
    for name, value in layer.backward(dy, cache)[0].items():
        numpy.testing.assert_array_equal(value, expected[name], err_msg=name)
    for array, value in zip(given, before, strict=True):
        numpy.testing.assert_array_equal(array, value)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_cache_can_be_copied(way):
    params, x, dy = problem("gated_delta")
    _, cache = layer.forward(params, x, writes=WRITES, resets=~WRITES)
    numpy.testing.assert_array_equal(layer.backward(dy, way(cache))[1], layer.backward(dy, cache)[1])


def test_tokens_are_looked_up():
    params, _, dy = problem()
    rng = numpy.random.default_rng(3)
    table, tokens = rng.standard_normal((6, I)), rng.integers(0, 6, (T, B))
    y, cache = layer.forward(params, ops.embedding(table, tokens))
    expected = results(params, table[tokens], dy)
    grads, dtable, _ = layer.backward(dy, cache)
    numpy.testing.assert_allclose(y, expected["y"], atol=1e-14)
    numpy.testing.assert_allclose(dtable, ops.embedding_backward(expected["x"], tokens, 6), atol=1e-13)
    assert_close(grads, {name: expected[name] for name in params})


@pytest.mark.parametrize("rule", ["decay", "gated_delta"])
def test_without_gradients_long_sequences_take_several_parts(rule, monkeypatch):
    monkeypatch.setattr(layer, "PART", 4)
    params, x, _ = problem(rule)
    options = {"lengths": numpy.array([9, 3, 8]), "resets": WRITES, "writes": WRITES[::-1], "chunk": 3}
    y, cache = layer.forward(params, x, **options)
    got, states_only = layer.forward(params, x, **options, gradients=False)
    numpy.testing.assert_allclose(got, y, atol=1e-13)
    numpy.testing.assert_allclose(layer.final_state(states_only).S, layer.final_state(cache).S, atol=1e-13)
    layer.final_state(states_only).S[...] = numpy.nan
    assert not numpy.isnan(layer.final_state(states_only).S).any()
    with pytest.raises(ValueError, match="cache: expected one with all that backward needs"):
        layer.backward(y, states_only)


def test_without_gradients_memory_grows_by_y_alone(monkeypatch):
    monkeypatch.setattr(layer, "PART", 64)
    peaks = {}
    for steps in (256, 1024):
        params, x, _ = problem(steps=steps)
        tracemalloc.start()
        y, _ = layer.forward(params, x, gradients=False)
        peaks[steps] = tracemalloc.get_traced_memory()[1] - 3 * y.nbytes
        tracemalloc.stop()
    assert peaks[1024] < peaks[256] + 20_000


def test_memory_and_cache_grow_linearly():
    sizes = {}
    for steps in (512, 2048):
        params, x, _ = problem(steps=steps)
        _, cache = layer.forward(params, x)
        sizes[steps] = len(pickle.dumps(cache))
    assert sizes[2048] < 4.2 * sizes[512]


def test_an_optimizer_decays_the_maps_alone_and_a_checkpoint_keeps_the_state(tmp_path):
    params, x, _ = problem("gated_delta")
    before = {name: value.copy() for name, value in params.items()}
    optim.Adam(params, weight_decay=0.5).step(params, {name: 0 * value for name, value in params.items()}, 0.1)
    for name, value in params.items():
        factor = 1.0 if name.endswith("_bias") else 0.95
        numpy.testing.assert_allclose(value, factor * before[name], err_msg=name)
    state = layer.final_state(layer.forward(params, x)[1])
    checkpoint.save(tmp_path / "state", {"state": state})
    loaded = checkpoint.load(tmp_path / "state")[0]["state"]
    assert type(loaded) is layer.State
    numpy.testing.assert_array_equal(loaded.S, state.S)


def test_initial_weights():
    rng = numpy.random.default_rng(0)
    params = layer.init(rng, 400, 6, 7, heads=3, rule="gated_delta")
    shapes = {"K": (3, 6, 400), "V": (3, 7, 400), "Q": (3, 6, 400), "beta": (3, 400), "gate": (3, 400)}
    shapes |= {"beta_bias": (3,), "gate_bias": (3,)}
    assert {name: value.shape for name, value in params.items()} == shapes
    assert all(value.dtype == "float32" for value in params.values())
    for name in ("K", "V", "Q", "beta", "gate"):
        assert 0.045 < abs(params[name]).max() <= 0.05
    assert not params["beta_bias"].any()
    gamma = 1 / (1 + numpy.exp(-params["gate_bias"]))
    numpy.testing.assert_allclose(gamma, [1 - 1 / 32, 1 - 1 / 64, 1 - 1 / 128], rtol=1e-6)
    for rule, names in layer.RULES.items():
        assert layer.init(rng, 2, 2, 2, rule=rule).keys() == {"K", "V", "Q", *names}


# ------------------------------------------------------------------------------------------------------ what is refused

PARAMS, X, DY = problem()
ADDING = {name: PARAMS[name] for name in "KVQ"}
STATE = layer.State(numpy.zeros((B, N, D_V, D_K)))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"params": 3}, TypeError, "params: expected a dict, got int"),
        ({"params": {"K": PARAMS["K"]}}, ValueError, "params: expected K, V, Q; missing V, Q"),
        ({"params": ADDING | {"beta": PARAMS["beta"]}}, ValueError, "params: expected both beta and beta_bias"),
        ({"params": ADDING | {"gate": PARAMS["beta"]}}, ValueError, "params: expected gate_bias too"),
        ({"params": ADDING | {"Q": PARAMS["V"]}}, ValueError, "Q: expected shape (2, 4, 5), got (2, 3, 5)"),
        ({"params": PARAMS | {"V": PARAMS["V"].astype("float32")}}, TypeError, "V: expected float64, the dtype of K"),
        ({"x": [1.0]}, TypeError, "x: expected a NumPy or CuPy array, got list"),
        ({"x": X[0]}, ValueError, "x: expected shape (T, B, 5)"),
        ({"x": X.astype("float32")}, TypeError, "x: expected float64, the dtype of K, got float32"),
        ({"x": ops.ClosedLoop(X, lambda t, h: X[t])}, TypeError, "x: expected an array or ops.Embedded"),
        ({"state": STATE.S}, TypeError, "state: expected a State, got ndarray"),
        ({"state": layer.State(STATE.S[1:])}, ValueError, "state.S: expected shape (3, 2, 3, 4)"),
        ({"decay": 0.0}, ValueError, "decay: expected a number above 0, and at most 1, got 0.0"),
        ({"decay": "1"}, TypeError, "decay: expected a number, got str"),
        ({"params": problem("gated")[0], "decay": 0.9}, ValueError, "decay: expected 1, because these params learn"),
        ({"feature_map": "dpfp-0"}, ValueError, "feature_map: expected identity, elu, or dpfp-1, dpfp-2 and so on"),
        ({"feature_map": 1}, ValueError, "feature_map: expected identity, elu, or dpfp-1"),
        ({"feature_map": "dpfp-9"}, ValueError, "feature_map: expected a ν of at most 8, twice the size of keys"),
        ({"normalization": "l1"}, ValueError, "normalization: expected one of l2, none, sum; got 'l1'"),
        ({"normalization": "sum"}, ValueError, "normalization: expected none or l2 for the feature map identity"),
        ({"attention_normalization": 1}, TypeError, "attention_normalization: expected a bool"),
        ({"attention_normalization": True}, ValueError, "attention_normalization: expected a rule that adds"),
        ({"params": ADDING, "attention_normalization": True}, ValueError, "elu or dpfp, got identity"),
        ({"writes": WRITES.tolist()}, TypeError, "writes: expected a NumPy array of booleans, got list"),
        ({"writes": WRITES * 1.0}, TypeError, "writes: expected booleans, got float64"),
        ({"writes": WRITES[1:]}, ValueError, "writes: expected shape (9, 3)"),
        ({"lengths": numpy.zeros(B, int)}, ValueError, "lengths: expected numbers from 1 to 9"),
        ({"gradients": 0}, TypeError, "gradients: expected a bool"),
        ({"chunk": 0}, ValueError, "chunk: expected at least 1, got 0"),
        ({"threads": 0}, ValueError, "threads: expected at least 1, got 0"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(given, error, message):
    with pytest.raises(error, match=re.escape(message)):
        layer.forward(**{"params": PARAMS, "x": X} | given)


def test_wrong_arguments_of_other_functions_are_refused_by_name():
    _, cache = layer.forward(PARAMS, X)
    rng, (q, k, v, _, _) = numpy.random.default_rng(0), random_memory(T)
    o, memory = key_value_memory.forward(q, k, v)
    for call, error, message in (
        (lambda: layer.init(rng, 2, 2, 2, rule="ba"), ValueError, "rule: expected one of decay, delta, gated"),
        (lambda: layer.init(rng, 2, 0, 2), ValueError, "key_size: expected at least 1, got 0"),
        (lambda: layer.backward(DY[:, :, 1:], cache), ValueError, "dy: expected shape (9, 3, 6)"),
        (lambda: layer.backward(DY, 3), TypeError, "cache: expected a Cache, got int"),
        (lambda: layer.backward(DY, cache, STATE.S), TypeError, "dstate: expected a State, got ndarray"),
        (lambda: layer.final_state(3), TypeError, "cache: expected a Cache, got int"),
        (lambda: layer.step(PARAMS, X, STATE), ValueError, "x: expected shape (B, 5)"),
        (lambda: layer.step(PARAMS, X[0], STATE.S), TypeError, "state: expected a State, got ndarray"),
        (lambda: layer.initial_state(PARAMS, 0), ValueError, "batch_size: expected at least 1, got 0"),
        (lambda: key_value_memory.forward(q, k[0], v), ValueError, "keys: expected shape (T, B, N, d_k)"),
        (lambda: key_value_memory.forward(q[:, :, :, 1:], k, v), ValueError, "queries: expected shape (9, 1, 2, 4)"),
        (lambda: key_value_memory.forward(q, k, v[1:]), ValueError, "values: expected shape (9, 1, 2, d_v)"),
        (lambda: key_value_memory.forward(q, k, v, v), ValueError, "state: expected shape (1, 2, 4, 4)"),
        (lambda: key_value_memory.forward(q, k, v, None, v), ValueError, "beta: expected shape (9, 1, 2)"),
        (lambda: key_value_memory.forward(q, k, v.astype("float32")), TypeError, "values: expected float64"),
        (lambda: key_value_memory.backward(o[1:], memory), ValueError, "do: expected shape (9, 1, 2, 4)"),
        (lambda: key_value_memory.backward(o.astype("float32"), memory), TypeError, "do: expected float64"),
        (lambda: key_value_memory.backward(o.tolist(), memory), TypeError, "do: expected a NumPy or CuPy array"),
        (lambda: key_value_memory.backward(o, memory, o[0]), ValueError, "dstate: expected shape (1, 2, 4, 4)"),
        (lambda: key_value_memory.backward(o, cache), TypeError, "cache: expected a key_value_memory.Cache"),
        (lambda: layer.initial_state(ADDING, 2, attention_normalization=True), ValueError, "got identity"),
        (
            lambda: layer.initial_state(PARAMS, 2, attention_normalization=True),
            ValueError,
            "got the delta rule; omit it",
        ),
        (lambda: features.features(k, "elu", "L2"), ValueError, "normalization: expected one of l2, none, sum"),
        (lambda: features.features(k, "relu", "none"), ValueError, "feature_map: expected identity, elu, or dpfp-1"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            call()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"log_decay": 0.5}, ValueError, "log_decay: expected at most 0, got 0.5"),
        ({"log_decay": numpy.full((1, 1, 1), 0.5)}, ValueError, "log_decay: expected at most 0, got 0.5"),
        ({"log_decay": numpy.zeros((6, 1, 1))}, ValueError, r"log_decay: expected shape \(6, 2, 1\), got \(6, 1, 1\)"),
        ({"log_decay": [0.0]}, TypeError, "log_decay: expected a NumPy or CuPy array, got list"),
        ({"delta": "no"}, TypeError, "delta: expected a bool, got str"),
        ({"parts": numpy.zeros((5, 2), int)}, ValueError, r"parts: expected shape \(6, 2\), got \(5, 2\)"),
        ({"parts": numpy.full((6, 2), -1)}, ValueError, "parts: expected numbers of documents that grow from 0"),
        (
            {"parts": numpy.array([[0, 0, 1, 0, 1, 1]] * 2).T},
            ValueError,
            "parts: expected numbers of documents that grow",
        ),
        ({"writes": numpy.full((6, 2), 2.0)}, TypeError, "writes: expected booleans, got float64"),
        ({"chunk": 0}, ValueError, "chunk: expected at least 1, got 0"),
        ({"threads": 0}, ValueError, "threads: expected at least 1, got 0"),
    ],
)
def test_wrong_arguments_of_the_memory_are_named(options, error, message):
    q, k, v = numpy.random.default_rng(0).standard_normal((3, 6, 2, 1, 3))
    with pytest.raises(error, match=message):
        key_value_memory.forward(q, k, v, **options)


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("log_of_zero", [-numpy.inf, -1e16])
def test_a_decay_of_zero_clears_the_memory_and_leaves_the_other_steps_alone(delta, log_of_zero):
    q, k, v = numpy.random.default_rng(0).standard_normal((3, 9, 2, 1, 3))
    log_decay, parts = numpy.full((9, 2, 1), -0.1), numpy.zeros((9, 2), int)
    log_decay[[2, 5]], parts[2:5], parts[5:] = log_of_zero, 1, 2
    writes = numpy.arange(9)[:, None] != [5, 8]  # without a write S is not decayed, so that this one does not clear it
    parts[5:, 0] = 1
    expected, of_parts = key_value_memory.forward(
        q, k, v, None, None, numpy.full((9, 2, 1), -0.1), delta=delta, parts=parts, writes=writes
    )
    o, cache = key_value_memory.forward(q, k, v, None, None, log_decay, delta=delta, writes=writes)
    numpy.testing.assert_allclose(o, expected, atol=1e-13)
    for got, wanted in zip(key_value_memory.backward(v, cache), key_value_memory.backward(v, of_parts), strict=True):
        if got is not None:
            numpy.testing.assert_allclose(got, wanted, atol=1e-12)


def test_the_callers_errstate_holds_in_every_thread():
    q = numpy.full((4, 2, 1, 3), 1e20, "float32")
    for threads in (1, 2):
        with numpy.errstate(all="raise"), pytest.raises(FloatingPointError):
            key_value_memory.forward(q, q, q, threads=threads)


def test_dpfp_is_the_same_for_every_size_of_its_blocks(monkeypatch):
    z = numpy.random.default_rng(0).standard_normal((3, 5, 9))[..., :4]  # not contiguous
    for block in (1, 100, features.BLOCK):
        monkeypatch.setattr(features, "BLOCK", block)
        phi, saved = features.features(z, "dpfp-2", "l2")
        dz = features.features_backward(numpy.sin(phi), saved, "dpfp-2", "l2")
        if block == 1:
            expected = phi, dz
        numpy.testing.assert_array_equal(phi, expected[0])
        numpy.testing.assert_array_equal(dz, expected[1])


def test_a_dpfp_with_too_many_shifts_is_refused():
    with pytest.raises(
        ValueError, match="feature_map: expected a ν of at most 2, twice the size of keys, got 'dpfp-3'"
    ):
        features.features(numpy.array([[-1.0]]), "dpfp-3", "none")
