"""Several sampling runs at once, one step of each in turn, so that whatever disturbs the machine falls on all."""

from __future__ import annotations

import threading
from collections.abc import Sequence


class _Stopped(Exception):
    """Another run has failed, or the user has stopped them all."""


def in_turns(backend, variants: Sequence[str], steps: int) -> list[list[tuple[float, float]]]:
    """Seconds of each of `steps` steps of each variant, and those in edits; `backend` is a HostBackend."""
    return _Turns(backend, variants, steps).seconds()


class _Turns:
    def __init__(self, backend, variants: Sequence[str], steps: int) -> None:
        self._backend, self._variants, self._steps = backend, variants, steps
        self._changed, self._turn, self._left = threading.Condition(), 0, set(range(len(variants)))
        self._errors: list[BaseException] = []
        self._spans: list[list[tuple]] = [[] for _ in variants]

    def seconds(self) -> list[list[tuple[float, float]]]:
        threads = [threading.Thread(target=self._run, args=(i,)) for i in range(len(self._variants))]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt as stop:
            self._fail(stop)
            for thread in threads:
                thread.join()
        if self._errors:
            raise self._errors[0]
        return [[(self._backend.seconds(a, b), edits) for a, b, edits in spans] for spans in self._spans]

    def _run(self, i: int) -> None:
        try:
            begun, edited = self._begin(i)

            def after_step() -> None:
                nonlocal begun, edited
                self._spans[i].append((begun, self._backend.mark(), self._backend.edit_seconds - edited))
                self._pass_on()
                begun, edited = self._begin(i)

            self._backend.run(self._variants[i], self._steps, after_step)
        except BaseException as error:  # told to the thread that has asked for the runs
            self._fail(error)
        finally:
            self._left.discard(i)
            self._pass_on()

    def _begin(self, i: int):
        """Wait for this run's turn.  Returns the mark of its beginning, and the seconds in edits until then."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn == i or self._errors)
            if self._errors:
                raise _Stopped
        return self._backend.mark(), self._backend.edit_seconds

    def _pass_on(self) -> None:
        with self._changed:
            waiting = sorted(self._left)
            self._turn = next((i for i in waiting if i > self._turn), waiting[0] if waiting else 0)
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._errors.append(error)
            self._changed.notify_all()
