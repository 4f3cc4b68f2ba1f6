"""Train two layers, each in both directions, on sequences of different lengths: at each step, name the last token."""

import numpy as np

import fastweights_np as fw

rng = np.random.default_rng(0)
net = fw.network.Network(
    fw.network.TokenEncoder(5), fw.network.Classifier(5), hidden_size=20, at="each", layers=2, bidirectional=True
)
params = net.init(rng)
adam, workspace = fw.optim.Adam(params), fw.Workspace()
for update in range(101):
    tokens, lengths = rng.integers(0, 5, (7, 32)), rng.integers(3, 8, 32)
    last = tokens[lengths - 1, range(32)]
    labels = np.broadcast_to(last, (7, 32))  # those after a sequence's end do not count
    loss, grads = net.loss_and_gradients(params, tokens, labels, workspace, lengths)
    fw.optim.clip_by_global_norm(grads, 5.0)
    adam.step(params, grads, learning_rate=3e-3)
    if update % 25 == 0:
        print(f"update {update}: {loss:.3f} nats")
