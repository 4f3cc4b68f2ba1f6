"""The command line: python -m fastweights_np.audit."""

import io
import sys

from . import main

for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # the encoding may lack the formulas' characters
sys.exit(main())
