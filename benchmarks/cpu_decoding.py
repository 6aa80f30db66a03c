"""`python -m benchmarks.cpu_decoding`: the front, whose results tell the CPU time of decoding instead of the time that passed."""

import sys
import time
from types import SimpleNamespace
from unittest.mock import patch

from service.front import frontend
from service.front.tracking import budget

if __name__ == "__main__":
    # The one clock of that room; it is read in the decoding threads.
    with patch.object(budget, "time", SimpleNamespace(monotonic=time.thread_time)):
        sys.exit(frontend.main())
