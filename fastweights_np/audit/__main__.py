"""The command line: python -m fastweights_np.audit."""

import sys

from . import main

sys.exit(main())
