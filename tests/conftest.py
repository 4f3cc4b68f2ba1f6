"""Set up what every test needs.

Each process has one BLAS thread: the products here are small, and the tests already run on all cores. Ctrl-C raises
KeyboardInterrupt, as in a terminal: a program that was started in the background ignores it, and so would the programs
that tests start.
"""

import os
import signal
import threading

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
