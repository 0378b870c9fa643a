"""Threads over images: a batch, or a block of one, runs on one thread, and so does each matrix product."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

THREADS = os.cpu_count() or 1


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of as many threads as the computer has; threads that share a product would wait for each other."""
    with threadpool_limits(1), ThreadPoolExecutor(THREADS) as pool:
        yield pool
