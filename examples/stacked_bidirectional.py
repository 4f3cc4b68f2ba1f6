"""Stack two layers, the first one in both directions, and check the gradient of a weight by a difference."""

import numpy as np

import fastweights_np as fw

layer, rng = fw.fast_weights, np.random.default_rng(0)
x = rng.standard_normal((7, 4, 3))  # 7 steps of 4 sequences
params = {
    "forwards": layer.init(rng, 3, 5, dtype="float64"),
    "backwards": layer.init(rng, 3, 5, dtype="float64"),
    "top": layer.init(rng, 10, 6, dtype="float64"),
}


def forward(params):
    right, right_cache = layer.forward(params["forwards"], x, rate=0.1)
    left, left_cache = layer.forward(params["backwards"], x[::-1], rate=0.1)
    both = np.concatenate([right, left[::-1]], axis=-1)
    h, top_cache = layer.forward(params["top"], both, rate=0.1)
    return h, (right_cache, left_cache, top_cache)


def backward(dh, caches):
    right_cache, left_cache, top_cache = caches
    top, dboth, _ = layer.backward(dh, top_cache)
    forwards, _, _ = layer.backward(np.ascontiguousarray(dboth[..., :5]), right_cache)
    backwards, _, _ = layer.backward(np.ascontiguousarray(dboth[::-1, :, 5:]), left_cache)
    return {"forwards": forwards, "backwards": backwards, "top": top}


h, caches = forward(params)
grads = backward(h, caches)  # of L = ½ Σ h²
params["backwards"]["W"][0, 1] += 1e-6
difference = 0.5 * ((forward(params)[0] ** 2).sum() - (h**2).sum()) / 1e-6
print(f"dL/dW[0, 1] of the backwards layer: {grads['backwards']['W'][0, 1]:.6f}, by a difference {difference:.6f}")
