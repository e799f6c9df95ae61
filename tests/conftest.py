"""Session-wide defaults: one core per lane, set before TVM or OpenCL is loaded.

The GPU lane is PoCL on one core, the CPU lane one TVM thread; with more, the two would share cores
and no test could tell overlap from contention. Values from the environment win.
"""

import os

os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")
