"""Reading files by threads while what was read before is worked on."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_THREADS = min(4, os.cpu_count() or 1)  # decoding and hashing work outside Python's lock


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Future[Result]]]:
    """The items in their order, each with its result or error, while threads read the next few."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(_THREADS, "reading") as pool:
        for item in items:
            waiting.append((item, pool.submit(read, item)))
            if len(waiting) > 2 * _THREADS:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
