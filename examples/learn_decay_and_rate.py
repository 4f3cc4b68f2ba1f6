"""Learn λ and η together with the weights: λ = sigmoid(l) stays between 0 and 1, η = exp(e) stays positive."""

import numpy as np

import fastweights_np as fw

rng = np.random.default_rng(0)
params = {
    "layer": fw.fast_weights.init(rng, input_size=6, hidden_size=20),
    "readout": {"W": (rng.standard_normal((6, 20)) / 20).astype("float32")},
    "memory": {"l": np.array([0.0], "float32"), "e": np.array([-3.0], "float32")},
}
adam = fw.optim.Adam(params)
for update in range(301):
    decay = float(1 / (1 + np.exp(-params["memory"]["l"][0])))
    rate = float(np.exp(params["memory"]["e"][0]))
    asked = rng.integers(0, 6, 32)  # the first input has to be named at the end
    x = rng.standard_normal((8, 32, 6)).astype("float32") * 0.3
    x[0] += np.eye(6, dtype="float32")[asked]

    h, cache = fw.fast_weights.forward(params["layer"], x, decay=decay, rate=rate)
    nll, probabilities = fw.ops.softmax_cross_entropy(h[-1] @ params["readout"]["W"].T, asked)
    dlogits = fw.ops.softmax_cross_entropy_backward(np.full(32, 1 / 32, "float32"), probabilities, asked)
    dh = dlogits @ params["readout"]["W"]  # of the last step alone
    layer, _, _ = fw.fast_weights.backward(dh, cache, extra=("decay", "rate"))
    dl, de = layer.pop("decay") * decay * (1 - decay), layer.pop("rate") * rate
    grads = {"layer": layer, "readout": {"W": dlogits.T @ h[-1]}, "memory": {"l": dl.reshape(1), "e": de.reshape(1)}}
    fw.optim.clip_by_global_norm(grads, 1.0)
    adam.step(params, grads, learning_rate=1e-2)
    if update % 100 == 0:
        print(f"update {update}: {nll.mean():.3f} nats, λ {decay:.3f}, η {rate:.3f}")
