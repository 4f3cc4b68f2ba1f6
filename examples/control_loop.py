"""Run the layer one step at a time in a control loop: each input depends on the state that the layer is in."""

import numpy as np

import fastweights_np as fw

rng = np.random.default_rng(0)
params = fw.fast_weights.init(rng, input_size=2, hidden_size=16)
to_force = rng.standard_normal(16).astype("float32") / 16  # a readout, here random: this example does not train
position, velocity = 1.0, 0.0
state = fw.fast_weights.initial_state(params, batch_size=1)
for t in range(50):
    seen = np.array([[position, velocity]], "float32")  # one sequence, so one row
    h, state = fw.fast_weights.step(params, seen, state, decay=0.9, rate=0.1)
    force = float(h[0] @ to_force)
    velocity += 0.1 * (force - position)
    position += 0.1 * velocity
    if t % 10 == 0:
        print(f"step {t}: position {position:+.3f}, force {force:+.3f}")
print(f"A has {state.A[0].size} fast weights, their norm is {np.linalg.norm(state.A[0]):.3f}")
