"""Ask a network that `python -m tasks retrieval` has trained, from the root of a clone:

python -m examples.ask_a_trained_network RUN q8c9m8o2??m
"""

import sys
from pathlib import Path

try:
    from tasks.asking import probabilities
except ModuleNotFoundError as error:
    raise SystemExit(
        f'{error}: install ".[tasks]", and run python -m examples.ask_a_trained_network from the root of the clone'
    ) from None

if len(sys.argv) != 3:
    raise SystemExit("usage: python -m examples.ask_a_trained_network RUN_FOLDER q8c9m8o2??m")
try:
    print(probabilities(Path(sys.argv[1]), sys.argv[2]).argmax())
except (OSError, ValueError) as error:
    raise SystemExit(str(error)) from None
