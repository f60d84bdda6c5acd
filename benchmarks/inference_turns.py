"""Several sampling runs at once, one step of each in turn, so that whatever disturbs the machine falls on all."""

from __future__ import annotations

import threading
from collections.abc import Sequence


def in_turns(backend, variants: Sequence[str], steps: int) -> list[list[tuple[float, float]]]:
    """Seconds of each of `steps` steps of each variant, and those in edits; `backend` is a HostBackend.

    Raises what a run raises, and KeyboardInterrupt; the other runs end with their step.
    """
    turns = [threading.Semaphore(0) for _ in variants]
    spans: list[list[tuple]] = [[] for _ in variants]
    errors: list[BaseException] = []

    def wait(i: int) -> None:
        turns[i].acquire()
        if errors:
            raise errors[0]

    def pass_on(i: int) -> None:
        turns[(i + 1) % len(turns)].release()

    def run(i: int) -> None:
        try:
            wait(i)
            begun, edited = backend.mark(), backend.edit_seconds

            def after_step() -> None:
                nonlocal begun, edited
                spans[i].append((begun, backend.mark(), backend.edit_seconds - edited))
                pass_on(i)
                wait(i)
                begun, edited = backend.mark(), backend.edit_seconds

            backend.run(variants[i], steps, after_step)
        except BaseException as error:  # told to the thread that has asked for the runs
            errors.append(error)
        pass_on(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(variants))]
    for thread in threads:
        thread.start()
    turns[0].release()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt as stop:
        errors.insert(0, stop)
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return [[(backend.seconds(a, b), edits) for a, b, edits in each] for each in spans]
