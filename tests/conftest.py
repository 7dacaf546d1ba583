"""What every test runs under: one thread, no network, no colours forced from outside."""

from __future__ import annotations

import os

# before torch is imported: the tests of files never import it, and one thread gives the same sums everywhere
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ[name] = "1"
for name in ("SOURCE_DATE_EPOCH", "FORCE_COLOR", "NO_COLOR", "COLUMNS"):
    os.environ.pop(name, None)
