"""Classify sequences: which of ten tokens came first? Train a whole network, then measure its error on new data."""

import numpy as np

import fastweights_np as fw

STEPS, BATCH = 8, 64
rng = np.random.default_rng(0)
net = fw.network.Network(fw.network.TokenEncoder(10), fw.network.Classifier(10), hidden_size=30)
params = net.init(rng)
adam = fw.optim.Adam(params)
workspace = fw.Workspace()  # the same buffers in every update
for update in range(400):
    tokens = rng.integers(0, 10, (STEPS, BATCH))
    loss, grads = net.loss_and_gradients(params, tokens, tokens[0], workspace)
    fw.optim.clip_by_global_norm(grads, 5.0)
    adam.step(params, grads, learning_rate=3e-3)
    if update % 100 == 0:
        print(f"update {update}: {loss:.3f} nats")

tokens = rng.integers(0, 10, (STEPS, 1000))
logits, _ = net.forward(params, tokens)
error = (logits.argmax(axis=1) != tokens[0]).mean()
print(f"error on 1,000 new sequences: {error:.1%}")
