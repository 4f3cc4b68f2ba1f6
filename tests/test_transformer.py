"""The transformer and In-Place TTT: what the audit does not compare."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest

from fastweights_np import attention, in_place_ttt, network, optim
from fastweights_np.plain import attention as plain_attention
from fastweights_np.plain import in_place_ttt as plain
from fastweights_np.transformer import Transformer
from fastweights_np.trees import flatten

SIZES = {"vocabulary": 7, "size": 8, "blocks": 2, "heads": 2, "hidden_size": 6, "window": 3}


def made(dtype="float32", **options):
    """A model written in block 2, its parameters with noise, tokens (T 13, B 3)."""
    model = Transformer(**SIZES | {"written": (2,), "options": {"chunk": 4}} | options)
    rng = numpy.random.default_rng(0)
    params = model.init(rng, dtype)
    for value in flatten(params).values():
        value += 0.1 * rng.standard_normal(value.shape, dtype)
    return model, params, rng.integers(0, 7, (13, 3))


def layer(kernel=True, **options):
    """An MLP that is written, x and source (T 12, B 2, 4)."""
    rng = numpy.random.default_rng(1)
    params = in_place_ttt.init(rng, 4, 6, kernel=kernel, dtype="float64", **options)
    return params, *rng.standard_normal((2, 12, 2, 4))


def test_one_chunk_gives_kernel_and_target_no_gradient_and_a_kernel_of_zeros_gives_none_to_target():
    params, x, source = layer()
    y, cache = in_place_ttt.forward(params, x, source, chunk=4)
    grads, _, _ = in_place_ttt.backward(y, cache)
    assert not grads["target"].any()
    assert abs(grads["kernel"]).max() > 1e-6
    params["kernel"] += 1
    for chunk, some in ((12, False), (16, False), (11, True)):
        y, cache = in_place_ttt.forward(params, x, source, chunk=chunk)
        grads, _, _ = in_place_ttt.backward(y, cache)
        assert grads["kernel"].any() == grads["target"].any() == some


@pytest.mark.parametrize(("tap", "leaks"), [(1, False), (2, True)])
def test_the_tap_1_across_the_edge_is_causal_and_the_tap_2_is_not(tap, leaks):
    params, x, source = layer(kernel=False, target=False)
    changed = source.copy()
    changed[5:] += 1
    ys = [plain.forward(params, x, each, chunk=4, taps=(tap,), across=tap)[0] for each in (source, changed)]
    assert (ys[0][:5] != ys[1][:5]).any() == leaks


def test_the_tap_across_the_edge_writes_the_pair_whose_key_ends_a_chunk():
    params, x, source = layer(kernel=False, target=False)
    for across in (False, True):
        _, cache = in_place_ttt.forward(params, x, source, chunk=4, taps=(1,), across=across)
        assert cache.V[:, 0, 3].any() == across
        numpy.testing.assert_array_equal(cache.V[:, 0, :3], source.swapaxes(0, 1)[:, 1:4])


def test_clip_bounds_what_a_chunk_writes_and_has_no_gradient():
    params, x, source = layer(kernel=False, target=False)
    how = {"chunk": 4, "taps": (1,), "clip": 0.5}
    _, free = in_place_ttt.forward(params, x, source, chunk=4, taps=(1,))
    y, clipped = in_place_ttt.forward(params, x, source, **how)
    assert numpy.linalg.norm(free.S[:, 0], axis=(1, 2)).min() > 0.6
    numpy.testing.assert_allclose(numpy.linalg.norm(clipped.S[:, 0], axis=(1, 2)), 0.5)
    with pytest.raises(ValueError, match=r"clip: expected None for a gradient, got 0.5; clip at inference alone"):
        in_place_ttt.backward(y, clipped)
    state, steps = in_place_ttt.initial_state(params, 2), []
    for x_t, source_t in zip(x, source, strict=True):
        y_t, state = in_place_ttt.step(params, x_t, source_t, state, **how)
        steps.append(y_t)
    numpy.testing.assert_allclose(numpy.stack(steps), y, atol=1e-12)


def test_attention_to_scores_of_any_size_is_a_softmax():
    rng = numpy.random.default_rng(2)
    params = attention.init(rng, 8, dtype="float64")
    for scale in (1, 8):  # scores up to some 100
        x = scale * rng.standard_normal((9, 2, 8))
        expected, _ = plain_attention.forward(params, x, 2, 4)
        numpy.testing.assert_allclose(attention.forward(params, x, 2, 4)[0], expected, atol=1e-9)
    y, _ = attention.forward(params, 1e3 * x, 2, 4)
    assert numpy.isfinite(y).all()


def test_outputs_at_places_are_rows_of_all_outputs_for_any_number_of_parts():
    model, params, tokens = made("float64")
    steps, columns = numpy.array([12, 0, 5, 5]), numpy.array([1, 2, 0, 2])
    whole, _ = model.forward(params, tokens)
    for threads in (1, 3):
        some, _ = replace(model, threads=threads).forward(params, (tokens, steps, columns))
        numpy.testing.assert_allclose(some, whole[steps, columns], atol=1e-12)


def test_parts_give_the_loss_and_the_gradients_of_the_whole():
    model, params, tokens = made("float64")
    loss, grads = model.loss_and_gradients(params, tokens[:-1], tokens[1:])
    of_parts, grads_of_parts = replace(model, threads=3).loss_and_gradients(params, tokens[:-1], tokens[1:])
    logits, _ = model.forward(params, tokens[:-1])
    probabilities = numpy.exp(logits) / numpy.exp(logits).sum(axis=-1, keepdims=True)
    expected = -numpy.log(numpy.take_along_axis(probabilities, tokens[1:, :, None], 2)).mean()
    numpy.testing.assert_allclose([loss, of_parts], expected)
    for name, value in flatten(grads).items():
        numpy.testing.assert_allclose(flatten(grads_of_parts)[name], value, atol=1e-12)


def test_it_learns_in_float32_and_decays_its_matrices():
    model, params, tokens = made()
    adam = optim.Adam(params, weight_decay=0.1)
    losses = [float(network.train_step(model, params, adam, tokens[:-1], tokens[1:], 0.02)) for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]
    assert {value.dtype.name for value in flatten(params).values()} == {"float32"}


def test_an_mlp_trained_without_targets_is_unchanged_by_new_ones():
    model, params, tokens = made(written=())
    before, _ = model.forward(params, tokens)
    params["block2"]["mlp"] |= in_place_ttt.init_target(numpy.random.default_rng(3), 8)
    after, _ = replace(model, written=(2,)).forward(params, tokens)
    numpy.testing.assert_array_equal(after, before)


def test_a_step_leaves_its_state_alone():
    model, params, tokens = made("float64", options={"chunk": 4, "taps": (-1, 1), "across": True})
    _, cache = model.forward(params, tokens[:8])
    state = model.final_state(cache)
    copies = [[array.copy() for array in (*a[:2], *(m or ()))] for a, m in state.blocks]
    first, _ = model.step(params, tokens[8], state)
    again, _ = model.step(params, tokens[8], state)
    numpy.testing.assert_array_equal(first, again)
    for (a, m), kept in zip(state.blocks, copies, strict=True):
        for array, copy in zip((*a[:2], *(m or ())), kept, strict=True):
            numpy.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "heads: expected heads of an even size, got size 8 and 3 heads"),
        ({"written": (3,)}, "written: expected numbers from 1 to blocks, 2, got 3"),
        ({"source": "x"}, "source: expected one of embeddings, input; got 'x'"),
        ({"options": {"chunks": 4}}, "options: expected names among .* did you mean 'chunk'"),
        ({"init_options": {"taps": (1,)}}, "init_options: expected names among kernel, target; got 'taps'"),
        ({"window": 0}, "window: expected at least 1, got 0"),
        ({"written": 2}, r"written: expected a tuple of numbers of blocks, such as \(2,\), got 2"),
        ({"tied": "yes"}, "tied: expected a bool, got str"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Transformer(**SIZES | options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"decay": 0}, ValueError, "decay: expected a number above 0, got 0"),
        ({"rate": -1}, ValueError, "rate: expected a finite number of at least 0"),
        ({"chunk": 0}, ValueError, "chunk: expected at least 1, got 0"),
        ({"clip": 0.0}, ValueError, "clip: expected a number above 0, got 0.0"),
        ({"taps": (1, 1)}, ValueError, "taps: expected at least one distance, and none twice"),
        ({"taps": (0.5,)}, TypeError, "taps: expected whole numbers, got 0.5"),
        ({"taps": (1,)}, ValueError, "kernel: expected shape"),
        ({"taps": (-2, -1, 0, 2, 3), "across": True}, ValueError, "across: expected the tap 1 among taps"),
    ],
)
def test_a_wrong_option_of_the_layer_is_named(options, error, message):
    params, x, source = layer()
    with pytest.raises(error, match=message):
        in_place_ttt.forward(params, x, source, **options)


def test_several_taps_need_a_kernel():
    params, x, source = layer(kernel=False)
    with pytest.raises(ValueError, match="taps: expected one for params without a kernel"):
        in_place_ttt.forward(params, x, source)


def test_a_place_that_occurs_twice_has_the_gradients_of_both():
    model, params, tokens = made("float64")
    steps, columns, labels = numpy.array([3, 5, 3]), numpy.array([1, 0, 1]), numpy.array([1, 2, 4])
    _, twice = model.loss_and_gradients(params, (tokens, steps, columns), labels)
    apart = [model.loss_and_gradients(params, (tokens, steps[n], columns[n]), labels[n])[1] for n in ([0, 1], [2])]
    for name, value in flatten(twice).items():
        both = (2 * flatten(apart[0])[name] + flatten(apart[1])[name]) / 3
        numpy.testing.assert_allclose(value, both, rtol=0, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("dtypes", [("int8", "int8"), ("uint64", "int64")])
def test_places_may_have_any_dtype_of_integers(dtypes):
    model = made("float64")[0]
    params, tokens = model.init(numpy.random.default_rng(0), "float64"), numpy.zeros((20, 16), int)
    places = numpy.array([19]), numpy.array([15])
    _, expected = model.loss_and_gradients(params, (tokens, *places), numpy.array([1]))
    _, found = model.loss_and_gradients(params, (tokens, *map(numpy.ndarray.astype, places, dtypes)), numpy.array([1]))
    for name, value in flatten(found).items():
        numpy.testing.assert_array_equal(value, flatten(expected)[name], err_msg=name)


@pytest.mark.parametrize(
    ("inputs", "resets", "error", "message"),
    [
        ((0,), None, ValueError, r"inputs: expected tokens, or \(tokens, steps, columns\), got 2 arrays"),
        (([0, 1, 2], [0]), None, ValueError, r"columns: expected shape \(3,\), got \(1,\)"),
        ((), numpy.zeros((13, 5), bool), ValueError, r"resets: expected shape \(13, 3\), got \(13, 5\)"),
        ((), numpy.zeros((13, 3)), TypeError, "resets: expected booleans, got float64"),
        ((), [[True]], TypeError, "resets: expected a NumPy array of booleans, got list"),
    ],
)
def test_wrong_places_and_resets_are_named(inputs, resets, error, message):
    model, params, tokens = made()
    places = (tokens, *map(numpy.atleast_1d, inputs)) if inputs else tokens
    with pytest.raises(error, match=message):
        model.forward(params, places, resets=resets)


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        ([-1, 0, 0], ValueError, "tokens: expected values from 0 to 6, got -1 at index"),
        ([7, 0, 0], ValueError, "tokens: expected values from 0 to 6, got 7 at index"),
        ([0.0, 0, 0], TypeError, "tokens: expected integers, got float64"),
        ([[0, 0, 0]], ValueError, r"tokens: expected shape \(B,\)"),
        ([0, 0], ValueError, r"state.keys: expected shape \(2, 0, 8\), got \(3, 0, 8\)"),
    ],
)
def test_a_step_checks_its_tokens(tokens, error, message):
    model, params, _ = made()
    with pytest.raises(error, match=message):
        model.step(params, numpy.array(tokens), model.initial_state(params, 3))


@pytest.mark.parametrize("written", [(), (2,)])
def test_there_is_no_final_state_after_several_documents(written):
    model, params, tokens = made(written=written)
    _, cache = model.forward(params, tokens, resets=numpy.zeros(tokens.shape, bool))
    with pytest.raises(ValueError, match="final_state: expected a forward without resets, got one with resets"):
        model.final_state(cache)
    params, x, source = layer()
    _, own = in_place_ttt.forward(params, x, source, resets=numpy.zeros(x.shape[:2], bool))
    with pytest.raises(ValueError, match="final_state: expected a forward without resets"):
        in_place_ttt.final_state(own)


def test_a_state_of_longer_chunks_is_refused():
    params, x, source = layer()
    state = in_place_ttt.final_state(in_place_ttt.forward(params, x[:7], source[:7], chunk=8)[1])
    with pytest.raises(ValueError, match="state: expected at most chunk, 4, steps that are not yet written, got 7"):
        in_place_ttt.step(params, x[7], source[7], state, chunk=4)


def test_writes_are_clipped_where_the_square_of_their_norm_overflows():
    params, x, source = layer()
    small, large = ({name: value.astype("float32") for name, value in params.items()} for _ in range(2))
    small["kernel"] = large["kernel"] = numpy.ones((5, 4), "float32")
    large["target"] = 1e25 * small["target"]
    expected, found = (
        in_place_ttt.forward(each, x.astype("float32"), source.astype("float32"), chunk=4, clip=1e-3)[0]
        for each in (small, large)
    )
    numpy.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("heads", "window", "change", "error", "message"),
    [
        (2, 0, None, ValueError, "window: expected at least 1, got 0"),
        (2, 2.5, None, TypeError, "window: expected a whole number, got 2.5"),
        (0, None, None, ValueError, "heads: expected at least 1, got 0"),
        (3, None, None, ValueError, "heads: expected heads of an even size, got size 8 and 3 heads"),
        (2, None, lambda x: x[0], ValueError, r"x: expected shape \(T, B, 8\)"),
        (2, None, lambda x: x[:0], ValueError, r"x: expected shape \(T, B, 8\)"),
        (2, None, lambda x: x.astype("float32"), TypeError, "expected float32, the dtype of x, got float64"),
    ],
)
def test_wrong_arguments_of_attention_are_named(heads, window, change, error, message):
    rng = numpy.random.default_rng(0)
    params, x = attention.init(rng, 8, dtype="float64"), rng.standard_normal((5, 2, 8))
    with pytest.raises(error, match=message):
        attention.forward(params, change(x) if change else x, heads, window)
