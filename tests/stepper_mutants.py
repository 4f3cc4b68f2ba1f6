"""Mutants: lines of the steppers, of their memory and of the forward pass alone with a typical mistake.

Each breaks the link `stepper = forward` or `without gradients = forward`.

They compute a forward pass, so that they have no number of the derivation and no place in audit/mutants.py.
"""

from __future__ import annotations

from fastweights_np.audit.mutants import Mutant

# the layer whose audit must fail, the file, its line, and what the line is turned into
_MUTANTS = {
    "layer norm: √H dropped": ("fast_weights", "stepper.py", "sqrt(units) * gain, bias", "gain, bias"),
    "layer norm: ε not times H": ("fast_weights", "stepper.py", "units * ops.LAYER_NORM_EPSILON", "ops.LAYER_NORM_EPSILON"),
    "layer norm: bias dropped": ("fast_weights", "stepper.py", "partial(xp.add, y, biases, y)", "partial(xp.add, y, 0, y)"),
    "b dropped": ("irnn", "stepper.py", "        self._u[:, -1] = 1\n", ""),
    "input not taken": ("irnn", "stepper.py", "        self._x[...] = x\n", ""),
    "state not kept": ("irnn", "stepper.py", "        self._h[...] = h\n", ""),
    "initial state not taken": ("irnn", "stepper.py", "            part.reset(None, array)\n", "            part.reset(None, None)\n"),
    "memory: states one step too old": ("fast_weights", "stream.py", "(r - 1 - k).clip(0)", "(r - k).clip(0)"),
    "memory: η dropped": ("fast_weights", "stream.py", "rate * float(decay) ** (r - 1 - k)", "float(decay) ** (r - 1 - k)"),
    "memory: matrix not decayed when read": ("fast_weights", "stream.py", "float(decay) ** r, r**0", "r**0, r**0"),
    "memory: matrix not decayed when folded": ("fast_weights", "stream.py", "self._decays[r], out=written", "1.0, out=written"),
    "memory: matrix left out of a read": ("fast_weights", "stream.py", "0 if has_matrix else 1", "1"),
    "memory: matrix forgotten": ("fast_weights", "stream.py", "self._start(has_matrix=True)", "self._start(has_matrix=self.has_matrix)"),
    "memory: states folded with other weights": ("fast_weights", "stream.py", "self._weights[r, 2 : r + 2, None", "self._weights[-1, 2 : r + 2, None"),
    "memory: A returned transposed": ("fast_weights", "stream.py", "return A.swapaxes(1, 2).copy()", "return A.copy()"),
    "memory: A taken transposed": ("fast_weights", "stream.py", "None if A is None else A.swapaxes(1, 2)", "A"),
    "inner loop: state not written": ("fast_weights", "fast_weights_stepper.py", "        self._A.write(h)  #", "        #"),
    "inner loop: one step": ("fast_weights", "fast_weights_stepper.py", "for s in range(S)", "for s in range(min(S, 1))"),
    "inner loop: first query at every step": ("fast_weights", "fast_weights_stepper.py", "A.query if s < S - 1 else out", "out"),
    "inner loop: preliminary state always normalized": ("fast_weights", "fast_weights_stepper.py", "norm if options.normalize_preliminary else None", "norm"),
    "inner loop: identity of method 2 dropped": ("fast_weights", "fast_weights_stepper.py", "identity=not options.sustained_boundary", "identity=False"),
    "alone: W not loaded": ("fast_weights", "fast_weights_inference.py", 'params["W"].T', 'params["W"]'),
    "alone: state before a part lost": ("fast_weights", "fast_weights_inference.py", "            self._before[...] = self.states[self.A.recent - 1]\n", ""),
    "alone: part not folded": ("fast_weights", "fast_weights_inference.py", "            self.A.fold()\n", "            self.A.recent = 0\n"),
    "alone: W of the state before the part": ("fast_weights", "fast_weights_inference.py", "self.states[r - 1] if r else self._before", "self._before"),
    "alone: C x + b dropped": ("fast_weights", "fast_weights_inference.py", "a, self.sums[r], a)", "a, 0, a)"),
    "alone: state kept at a reset": ("fast_weights", "fast_weights_inference.py", "                self._before[anew] = 0\n", ""),
    "alone: fast weights kept at a reset": ("fast_weights", "fast_weights_inference.py", "                self.A.reset(anew, None)\n", ""),
    "alone: states before a reset lost": ("fast_weights", "fast_weights_inference.py", "                h[done:r], done = self.states[done:r], r", "                done = r"),
    "alone: states after the end kept": ("fast_weights", "fast_weights_inference.py", "                self.states[r][ended] = 0\n", "                pass\n"),
    "alone: A of the last part for all": ("fast_weights", "fast_weights_inference.py", "            A[rows] = of_rows\n", "            pass\n"),
    "alone: A decays after the end": ("fast_weights", "stream.py", "self._weights[self._xp.asarray(recent)]", "self._weights[self._xp.asarray(0 * recent + self.recent)]"),
    "multilevel: every state stored": ("multilevel", "multilevel.py", "        if store:\n            self._A", "        if True:\n            self._A"),
    "multilevel: state not wiped": ("multilevel", "multilevel.py", "            self._h[...] = 0\n", "            pass\n"),
    "multilevel: always W": ("multilevel", "multilevel.py", "self._through[TRANSITIONS[integrate]]()", "self._through[TRANSITIONS[False]]()"),
    "multilevel: fast weights always read": ("multilevel", "multilevel.py", "self._inner_loop if read else self._unread", "self._inner_loop"),
    "lstm: g without the input gate": ("lstm", "lstm.py", "partial(xp.multiply, i, g, written)", "partial(xp.multiply, g, 1, written)"),
    "lstm: cells do not forget": ("lstm", "lstm.py", "partial(xp.multiply, f, c, c)", "partial(xp.multiply, c, 1, c)"),
    "lstm: tanh of the cells dropped": ("lstm", "lstm.py", "partial(xp.multiply, o, tanh_c)", "partial(xp.multiply, o, c)"),
    "associative: memory not kept": ("associative_lstm", "associative_lstm.py", "partial(at.c_before.__setitem__, ..., at.c)", "partial(at.c_before.__setitem__, ..., at.c_before)"),
}  # fmt: skip
MUTANTS = {name: (layer, Mutant(*mutant)) for name, (layer, *mutant) in _MUTANTS.items()}
