"""Check the math on this machine, link by link: python -m fastweights_np.audit.

    1  plain forward, matrix, equation (1)    =  attention, equation (4); a batch = its sequences one by one
    2  fast forward                           =  plain forward, for every option and chunk size; ops = SciPy
    3  plain and fast backward                =  autograd through the plain forward             to 1e-12
    4  hand-derived backward                  =  finite differences (SciPy) of the fast forward to 1e-7
    5  one step at a time, or two parts       =  whole sequences
    6  GPU                                    =  host, where there is a GPU
    7  float32                                =  float64                                        to 1e-4

Gradients of every parameter, input, initial state and learnable scalar are compared, for random cotangents. The plain
files must be compared with the paper by eye: they are short enough. `python -m fastweights_np.audit F6` explains one
number of DERIVATION.md. Needs autograd and SciPy.
"""

from .cases import FULL, QUADRANTS, QUICK, Case, controls
from .command import main
from .links import Link, relative_error
from .run import run

__all__ = ["FULL", "QUADRANTS", "QUICK", "Case", "Link", "controls", "main", "relative_error", "run"]
