"""Run the same lines under NumPy and, where a GPU is at hand, under CuPy; the arrays decide where the work runs."""

import sys

import numpy as np

import fastweights_np as fw


def gradients(device: str):
    """Return h and the gradients of the layer's parameters, computed on this device, as NumPy arrays."""
    rng = np.random.default_rng(0)  # weights and data are drawn on the host: the same on any device
    params = fw.fast_weights.init(rng, input_size=3, hidden_size=20)
    x = rng.standard_normal((11, 8, 3), dtype="float32")
    params, x = fw.to_device((params, x), device)
    h, cache = fw.fast_weights.forward(params, x)
    grads, _, _ = fw.fast_weights.backward(h, cache)
    return fw.to_host((h, grads))


h, grads = gradients("cpu")
print(f"host: h {h.shape}, |dW| {np.linalg.norm(grads['W']):.4f}")
try:
    h_gpu, grads_gpu = gradients("cuda")
except RuntimeError as error:
    sys.exit(f"no GPU: {error}")
worst = max(abs(grads[name] - grads_gpu[name]).max() for name in grads)
print(f"GPU: the largest difference is {worst:.1e} of {abs(grads['W']).max():.1e}")
