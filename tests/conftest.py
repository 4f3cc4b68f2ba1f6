"""One BLAS thread a process: the products here are small, and the tests already run on all cores."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
