"""End all ranks if one fails, with its message; print one message if all fail for the same reason."""

from __future__ import annotations

import platform
import sys
import traceback
from pathlib import Path
from typing import Any

from fastweights_np.distributed import Ranks

from .failures import explained
from .runs import FAILED

PATIENCE = 2.0  # seconds in which all ranks fail if they fail for the same reason


def ended(ranks: Ranks, error: BaseException, settings: Any, folder: Path | None, program: str) -> int:
    """Print the message for an error and return the exit code. If only this rank fails, end all ranks.

    The arguments are those of failures.explained. Raise the error again if it is a bug of this program.
    """
    try:
        code, sentence = explained(error, settings, folder, program)
    except BaseException:
        if not ranks.meet(PATIENCE):
            traceback.print_exc()
            _abort(ranks, FAILED, "a bug, see above")
        raise
    if not ranks.meet(PATIENCE):
        _abort(ranks, code, sentence)
        return code  # MPI may take a moment to end this rank
    if ranks.rank == 0:
        print(f"tasks: {sentence}", file=sys.stderr)
    return ranks.broadcast(code)


def _abort(ranks: Ranks, code: int, sentence: str) -> None:
    print(f"tasks: rank {ranks.rank} on {platform.node()}: {sentence}", file=sys.stderr)
    ranks.abort(code)
