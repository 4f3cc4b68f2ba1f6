"""Ask a network that `python -m tasks retrieval` has trained, from the root of a clone:

python -m examples.ask_a_trained_network RUN q8c9m8o2??m
"""

import sys
from pathlib import Path

import numpy as np

from fastweights_np import checkpoint
from tasks import retrieval
from tasks.running import runs


def ask(folder: Path, text: str) -> int:
    """Return the digit that the trained network answers."""
    settings = runs.settings_of(folder, retrieval.Settings)
    arrays, _ = checkpoint.load(folder / "checkpoint.npz")
    if unknown := set(text) - set(retrieval.TOKENS):
        raise SystemExit(f"expected letters, digits and ?, got {' '.join(sorted(unknown))}")
    tokens = np.array([[retrieval.TOKENS.index(each)] for each in text])  # (steps, 1): one sequence
    logits, _ = retrieval.network(settings).forward(arrays["best_params"], tokens)
    return int(logits[0].argmax())


if len(sys.argv) != 3:
    raise SystemExit("usage: python -m examples.ask_a_trained_network RUN_FOLDER q8c9m8o2??m")
try:
    print(ask(Path(sys.argv[1]), sys.argv[2]))
except (OSError, ValueError) as error:
    raise SystemExit(str(error)) from None
