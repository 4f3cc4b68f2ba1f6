"""Learn λ and η together with the weights: which of six inputs came first?"""

import numpy as np

import fastweights_np as fw

rng = np.random.default_rng(0)
net = fw.network.Network(
    fw.network.IdentityEncoder(6), fw.network.Classifier(6), hidden_size=20,
    options={"decay": 0.5, "rate": 0.05}, learn=("decay", "rate"),
)  # fmt: skip
params = net.init(rng)
adam = fw.optim.Adam(params)
for update in range(301):
    asked = rng.integers(0, 6, 32)
    x = rng.standard_normal((8, 32, 6)).astype("float32") * 0.3
    x[0] += np.eye(6, dtype="float32")[asked]
    loss, grads = net.loss_and_gradients(params, x, asked)
    fw.optim.clip_by_global_norm(grads, 1.0)
    adam.step(params, grads, learning_rate=1e-2)
    if update % 100 == 0:
        decay, rate = 1 / (1 + np.exp(-params["layer"]["decay"])), np.exp(params["layer"]["rate"])
        print(f"update {update}: {loss:.3f} nats, λ {decay:.3f}, η {rate:.3f}")
