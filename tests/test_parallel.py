"""A layer shared out among processes gives what the layer gives, and says what is wrong."""

from __future__ import annotations

import gc
import os
import subprocess

import numpy
import pytest

import fastweights_np as fw
from bench import strict_cupy
from fastweights_np import ops, parallel
from tests import stumbling_layer

T, B, INPUTS, H = 4, 5, 3, 6


@pytest.fixture(scope="module")
def shared():
    with parallel.Layer(fw.fast_weights, processes=3) as layer:
        yield layer


def made(batch_size=B, seed=0):
    rng = numpy.random.default_rng(seed)
    params = fw.fast_weights.init(rng, INPUTS, H, dtype="float64")
    x = rng.standard_normal((T, batch_size, INPUTS))
    given = {"h0": rng.standard_normal((batch_size, H)), "A0": rng.standard_normal((batch_size, H, H))}
    return params, x, given, rng.standard_normal((T, batch_size, H))


def compare(shared, params, x, dh, extra=(), **options):
    h, cache = shared.forward(params, x, **options)
    expected_h, expected_cache = fw.fast_weights.forward(params, x, **options)
    numpy.testing.assert_allclose(h, expected_h, atol=1e-13)
    grads, *others = shared.backward(dh, cache, extra)
    expected, *expected_others = fw.fast_weights.backward(dh, expected_cache, extra)
    assert grads.keys() == expected.keys()
    for name, value in expected.items():
        numpy.testing.assert_allclose(grads[name], value, atol=1e-11, err_msg=name)
    for got, wanted in zip(others, expected_others, strict=True):
        numpy.testing.assert_allclose(got, wanted, atol=1e-12)


def test_equals_the_layer_with_everything_given(shared):
    params, x, given, dh = made()
    compare(shared, params, x, dh, extra=("decay", "rate", "A0"), **given, decay=0.8, inner_steps=2, chunk=2)
    compare(shared, params, x, dh, extra="rate")
    compare(shared, params, x, dh, extra="A0")  # zero, and yet it has a gradient
    _, cache = shared.forward(params, x)
    assert shared.backward(dh, cache, iter(("decay", "A0")))[0].keys() == {*params, "decay", "A0"}


@pytest.mark.parametrize("module", [fw.fast_weights, fw.irnn, fw.lstm, fw.associative_lstm, fw.multilevel])
@pytest.mark.parametrize("batch_size", [1, B])
def test_the_state_after_the_last_step_is_the_layers(module, batch_size):
    rng = numpy.random.default_rng(0)
    params = module.init(rng, INPUTS, H, dtype="float64")
    x, options = rng.standard_normal((T, batch_size, INPUTS)), {}
    if module is fw.multilevel:
        options["controls"] = fw.multilevel.Controls(*[[True] * T] * 4)
    with parallel.Layer(module, processes=3) as layer:
        _, cache = layer.forward(params, x, **options)
        state = layer.final_state(cache)
        expected = module.final_state(module.forward(params, x, **options)[1])
        assert type(state) is module.State
        for got, wanted in zip(state, expected, strict=True):
            numpy.testing.assert_allclose(got, wanted, atol=1e-12)
        dh = rng.standard_normal((T, batch_size, H))
        _, dx, dh0 = layer.backward(dh, cache, dstate=state)
        _, expected_dx, expected_dh0 = module.backward(
            dh, module.forward(params, x, **options)[1], dstate=expected
        )  # fmt: skip
        numpy.testing.assert_allclose(dx, expected_dx, atol=1e-11)
        numpy.testing.assert_allclose(dh0, expected_dh0, atol=1e-11)
        with pytest.raises(ValueError, match=r"dstate\.h: expected a row for each of the .* sequences, got"):
            layer.backward(dh, cache, dstate=state._replace(h=numpy.zeros((9, H))))
        layer.forward(params, x, **options)
        with pytest.raises(RuntimeError, match="overwritten by a later forward"):
            layer.final_state(cache)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_any_batch_may_follow_any_other(shared, batch_size):
    params, x, _, dh = made(batch_size)
    compare(shared, params, x, dh)
    compare(shared, params, x, dh[-1])


def test_arrays_may_fill_their_memory_to_the_last_byte(shared):
    """The last one has 2 sequences of 8 units: a whole number of cache lines."""
    rng = numpy.random.default_rng(0)
    params = fw.fast_weights.init(rng, INPUTS, 8, dtype="float64")
    compare(shared, params, rng.standard_normal((T, 6, INPUTS)), rng.standard_normal((T, 6, 8)))
    assert os.fstat(shared._helpers[0]._file).st_size < 2**16, "and do not take much more than they need"


def test_tokens_share_their_table(shared):
    params, _, _, dh = made()
    rng = numpy.random.default_rng(1)
    compare(shared, params, ops.embedding(rng.standard_normal((7, INPUTS)), rng.integers(0, 7, (T, B))), dh)


def test_the_same_bits_each_time_and_no_views_of_shared_memory(shared):
    params, x, _, dh = made()

    def once():
        h, cache = shared.forward(params, x)
        grads, dx, dh0 = shared.backward(dh, cache)
        return h, dx, dh0, *grads.values()

    first = once()
    kept = [array.copy() for array in first]
    for again in (first, once()):
        for a, b in zip(again, kept, strict=True):
            numpy.testing.assert_array_equal(a, b)


def test_what_goes_wrong_is_told_and_the_next_call_works(shared):
    params, x, given, dh = made()
    with pytest.raises(ValueError, match="decay: expected a number from 0 to 1"):
        shared.forward(params, x, decay=2.0)
    with pytest.raises(ValueError, match=r"h0: expected a row for each of the 5 sequences, got \(4, 6\)"):
        shared.forward(params, x, given["h0"][:4])
    with pytest.raises(TypeError, match=r"x: expected float32 or float64, got int64; tokens go in as ops.embedding"):
        shared.forward(params, numpy.zeros((T, B, INPUTS), int))
    for wrong in (x[0], x[:0], x[:, :0]):
        with pytest.raises(ValueError, match=r"^x: expected shape \(T, B, I\) with every size at least 1, got"):
            shared.forward(params, wrong)
    with pytest.raises(TypeError, match="h0: expected a NumPy or CuPy array, got list"):
        shared.forward(params, x, given["h0"].tolist())
    h, cache = shared.forward(params, x)
    with parallel.Layer(fw.fast_weights, processes=1) as other, pytest.raises(ValueError, match="got another layer's"):
        other.backward(dh, cache)
    with pytest.raises(ValueError, match=r"dh: expected shape .* dh has the shape of h, or of h\[-1\]"):
        shared.backward(dh[:, :4], cache)
    with pytest.raises(ValueError, match=r"dh: expected shape"):
        shared.backward(dh[:2], cache)
    with pytest.raises(TypeError, match="layer: expected a module, got int; pass a layer's module"):
        parallel.Layer(3, 2)
    with pytest.raises(ValueError, match="extra: expected one of A0, decay, rate"):
        shared.backward(dh, cache, extra=("λ",))
    shared.forward(params, 2 * x)
    with pytest.raises(RuntimeError, match="overwritten by a later forward"):
        shared.backward(dh, cache)
    numpy.testing.assert_array_equal(shared.forward(params, x)[0], h)


def test_a_dead_helper_is_reported_not_waited_for():
    params, x, _, dh = made()
    layer = parallel.Layer(fw.fast_weights, processes=2)
    _, cache = layer.forward(params, x)
    process = layer._helpers[0]._process
    process.kill()
    process.wait()
    with pytest.raises(RuntimeError, match="a helper process has ended"):
        layer.backward(dh, cache)
    layer.close()


@pytest.fixture(scope="module")
def stumbling():
    with parallel.Layer(stumbling_layer, processes=3) as layer:
        yield layer


def a_run(layer, fail_in=None, where=None, how=stumbling_layer.RAISE):
    """h, dx and dW of a run of the stumbling layer, in which one of the sequences makes forward or backward fail."""
    rng = numpy.random.default_rng(0)
    params = stumbling_layer.init(rng, INPUTS, H, dtype="float64")
    x, h0, dh = (rng.standard_normal(shape) for shape in ((T, B, INPUTS), (B, H), (T, B, H)))
    if fail_in is not None:
        (h0 if fail_in == "forward" else dh[-1])[where] = how
    h, cache = layer.forward(params, x, h0)
    grads, dx, _ = layer.backward(dh, cache)
    return h, dx, grads["W"]


@pytest.mark.parametrize("fail_in", ["forward", "backward"])
@pytest.mark.parametrize("where", range(B))
def test_a_failure_in_any_process_is_raised_here_and_the_next_call_is_right(stumbling, fail_in, where):
    """Five sequences are shared out as one, two and two."""
    with pytest.raises(ArithmeticError, match=f"^asked to, of {1 if where == 0 else 2} sequences$"):
        a_run(stumbling, fail_in, where)
    for got, expected in zip(a_run(stumbling), a_run(stumbling_layer), strict=True):
        numpy.testing.assert_allclose(got, expected, atol=1e-12)


def test_of_failures_in_several_processes_one_is_raised(stumbling):
    for where in (slice(None), slice(1, None)):  # with the own share, and without
        with pytest.raises(ArithmeticError, match=r"^asked to"):
            a_run(stumbling, "backward", where)
    for got, expected in zip(a_run(stumbling), a_run(stumbling_layer), strict=True):
        numpy.testing.assert_allclose(got, expected, atol=1e-12)


def test_a_failure_that_cannot_be_sent_is_described(stumbling):
    with pytest.raises(RuntimeError, match=r"^UnpicklableError: asked to$"):
        a_run(stumbling, "forward", -1, stumbling_layer.RAISE_UNPICKLABLE)
    assert numpy.isfinite(a_run(stumbling)[0]).all()


@pytest.mark.parametrize("fail_in", ["forward", "backward"])
def test_a_helper_that_dies_at_work_is_reported_by_this_and_every_later_call(fail_in):
    with parallel.Layer(stumbling_layer, processes=2) as layer:
        for where in (-1, None):
            with pytest.raises(RuntimeError, match=r"a helper process has ended: make a new parallel\.Layer"):
                a_run(layer, *((fail_in, where, stumbling_layer.DIE) if where else ()))


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 12])
def test_shares_are_of_equal_size_or_nearly_so(batch_size, processes):
    shares = parallel._shares(batch_size, processes)
    sizes = [share.stop - share.start for share in shares]
    assert len(shares) == min(processes, batch_size)
    assert max(sizes) - min(sizes) <= 1
    assert [index for share in shares for index in range(share.start, share.stop)] == list(range(batch_size))


def test_a_process_that_was_forked_may_not_command_the_helpers(monkeypatch):
    with parallel.Layer(fw.fast_weights, processes=2) as layer:
        params, x, _, _ = made()
        owner = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: owner + 1)
        with pytest.raises(RuntimeError, match="expected the process that made it, got one forked from it"):
            layer.forward(params, x)
        monkeypatch.undo()
        assert layer.forward(params, x)[0].shape == (T, B, H)


def test_a_helper_that_does_not_end_is_killed():
    """As where a process forked from this one holds its pipe open."""
    done = []

    class Stubborn:
        def wait(self, timeout=None):
            done.append("waited")
            if timeout is not None:
                raise subprocess.TimeoutExpired("helper", timeout)

        def kill(self):
            done.append("killed")

    files = open_files()
    parallel._end(*parallel.Pipe(), Stubborn(), os.dup(0))
    assert done == ["waited", "killed", "waited"]
    assert open_files() == files


def test_arrays_of_a_gpu_are_refused(shared):
    with strict_cupy.installed() as cupy:
        params, x, _, _ = made()
        with pytest.raises(TypeError, match=r"x: expected NumPy arrays, got CuPy's; .*not parallel.Layer"):
            shared.forward({name: cupy.asarray(value) for name, value in params.items()}, cupy.asarray(x))


def test_options_of_parallel_layers_are_checked():
    for processes, error in ((0, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"^processes: expected"):
            parallel.Layer(fw.irnn, processes=processes)
    with parallel.Layer(fw.irnn, processes=1) as layer, pytest.raises(TypeError, match=r"^cache: expected a Cache"):
        layer.backward(numpy.zeros((T, B, H)), None)


def open_files():
    gc.collect()  # what other tests have left is closed now, not between two counts
    return len(os.listdir("/dev/fd"))


def test_closing_closes_all_files():
    files = open_files()
    layer = parallel.Layer(fw.fast_weights, processes=3)
    layer.close()
    assert open_files() == files


def test_a_with_block_closes_its_layer():
    with parallel.Layer(fw.fast_weights, processes=2) as layer:
        process = layer._helpers[0]._process
    assert process.poll() == 0


def test_closing_ends_the_helpers():
    layer = parallel.Layer(fw.fast_weights, processes=2)
    process = layer._helpers[0]._process
    assert process.poll() is None
    params, x, _, _ = made()
    h, cache = layer.forward(params, x)
    layer.close()
    assert process.poll() == 0
    for call in (lambda: layer.backward(h, cache), lambda: layer.forward(params, x)):
        with pytest.raises(RuntimeError, match="got one that has been closed"):
            call()


def test_ctrl_c_while_a_helper_is_waited_for_does_not_leave_its_answer_to_the_next_call(monkeypatch):
    params, x, _, _ = made()
    with parallel.Layer(fw.fast_weights, processes=2) as layer:
        layer.forward(params, x)

        def interrupted(pipe):
            assert pipe.poll(30), "the answer is there, but has not been read"
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(parallel, "_receive", interrupted)
            with pytest.raises(KeyboardInterrupt):
                layer.forward(params, 2 * x)
        with pytest.raises(RuntimeError, match="a helper process has ended"):
            layer.forward(params, x)


def test_a_network_may_use_it(shared):
    rng = numpy.random.default_rng(0)
    tokens, labels = rng.integers(0, 9, (T, B)), rng.integers(0, 3, B)
    encoder, readout = fw.network.TokenEncoder(9), fw.network.Classifier(3)
    alone = fw.network.Network(encoder, readout, hidden_size=H)
    params = alone.init(rng, dtype="float64")
    several = fw.network.Network(encoder, readout, hidden_size=H, processes=2)
    loss, grads = several.loss_and_gradients(params, tokens, labels)
    expected_loss, expected = alone.loss_and_gradients(params, tokens, labels)
    numpy.testing.assert_allclose(loss, expected_loss)
    for part, tree in expected.items():
        for name, value in tree.items():
            numpy.testing.assert_allclose(grads[part][name], value, atol=1e-13, err_msg=f"{part}/{name}")
    process = several._recurrent["layer"]._helpers[0]._process
    several.close()
    assert process.poll() == 0
    unused = fw.network.Network(encoder, readout, hidden_size=H, processes=2)
    unused.close()
    assert "_recurrent" not in vars(unused), "no helpers are started to be closed"
