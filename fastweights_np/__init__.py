"""Fast-weight recurrent networks (Ba et al. 2016) in plain array operations, with every gradient derived by hand."""

from . import fast_weights
from .backend import to_device, to_host
from .workspace import Workspace

__version__ = "0.1.0"
__all__ = ["Workspace", "fast_weights", "to_device", "to_host"]
