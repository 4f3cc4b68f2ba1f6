"""On a GPU: chain link 6, memory that does not grow, and devices that do not mix. Skipped where there is none."""

from __future__ import annotations

import numpy
import pytest

import fastweights_np as fw
from fastweights_np import audit, optim, to_device, to_host
from fastweights_np.network import Classifier, Network, TokenEncoder
from fastweights_np.trees import map_leaves


def why_not() -> str:
    """Why nothing can run on a GPU here; empty if it can."""
    try:
        to_device({}, "cuda")
    except RuntimeError as error:
        return str(error)
    return ""


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(why_not()), reason=why_not())]
TOLERANCES = {"float64": 1e-10, "float32": 2e-3}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", audit.FULL, ids=str)
def test_the_device_gives_the_hosts_numbers(case, dtype):
    """Chain link 6: forward, final state, and all gradients, of every layer and option."""
    arrays = map_leaves(lambda leaf: leaf.astype(dtype), case.arrays())
    found = []
    for device in ("cpu", "cuda"):
        params, given, dh = to_device(arrays, device)
        for way in case.ways():
            h, cache = case.module.forward(params, **given, **case.options, **way)
            grads, dx, dh0 = case.module.backward(dh, cache, extra=case.extra())
            state = case.module.final_state(cache)._asdict()
            found.append(to_host({"h": h, "dx": dx, "dh0": dh0} | grads | {f"{n}(T)": v for n, v in state.items()}))
    host, device_ = found[: len(case.ways())], found[len(case.ways()) :]
    for expected, got in zip(host, device_, strict=True):
        for name, value in expected.items():
            assert got[name].dtype == value.dtype
            error, index = audit.relative_error(got[name], value)
            assert error <= TOLERANCES[dtype], f"{name}{list(index)}: {error:.1e}"


def test_the_whole_audit_holds():
    for link in audit.run("cuda"):
        assert link.passed, f"{link.title}: {link.worst:.1e} at {link.where}"


@pytest.mark.parametrize("layer", ["fast_weights", "lstm"])
def test_memory_does_not_grow_over_a_thousand_updates(layer):
    import cupy

    rng = numpy.random.default_rng(0)
    net = Network(TokenEncoder(9), Classifier(3), 20, layer)
    params = to_device(net.init(rng), "cuda")
    tokens, labels = to_device((rng.integers(0, 9, (11, 32)), rng.integers(0, 3, 32)), "cuda")
    adam, workspace, pool, held = optim.Adam(params), fw.Workspace(), cupy.get_default_memory_pool(), []
    for update in range(1000):
        _, grads = net.loss_and_gradients(params, tokens, labels, workspace)
        optim.clip_by_global_norm(grads, 1.0)
        adam.step(params, grads, 1e-3)
        if update in (10, 999):
            held.append(pool.total_bytes())
    assert held[1] == held[0]


def test_host_and_device_do_not_mix():
    params = fw.fast_weights.init(numpy.random.default_rng(0), 3, 4)
    x = to_device(numpy.zeros((5, 2, 3), "float32"), "cuda")
    with pytest.raises(TypeError, match=r"on the host \(NumPy\) and x on the GPU"):
        fw.fast_weights.forward(params, x)


def test_two_devices_do_not_mix():
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("there is one GPU only")
    params = to_device(fw.fast_weights.init(numpy.random.default_rng(0), 3, 4), "cuda")
    with cupy.cuda.Device(1):
        x = cupy.zeros((5, 2, 3), "float32")
    with pytest.raises(TypeError, match=r"GPU 0 .* GPU 1"):
        fw.fast_weights.forward(params, x)
