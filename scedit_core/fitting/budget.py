"""Minutes that a run may take, and the number of updates that they came to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from typing import Any

from .rates import default_warmup
from .settings import LoopSettings, Settings

_FORWARD = 0.5  # of an update's time, which is a forward and a backward pass of the decoder
_RESERVE = 0.03  # of the time, for what is not foreseen


class Budget:
    """A run's time, from its first update on, without the pauses between a stop and the next start.

    minutes: that it may take.
    steps:   the updates that they came to, None until that is known.  The number is kept with each checkpoint, since
             the learning rate follows it: a run that is stopped and resumed then ends as one that was not.
    clock:   seconds, for tests.
    """

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.minutes, self.steps = minutes, None
        self._clock, self._before, self._since = clock, 0.0, clock()

    def start(self) -> None:
        """Count from now on."""
        self._since = self._clock()

    @property
    def spent(self) -> float:
        """Seconds so far, those of earlier starts included."""
        return self._before + self._clock() - self._since

    @property
    def left(self) -> float:
        """Seconds."""
        return 60 * self.minutes - self.spent

    def state_dict(self) -> dict[str, Any]:
        """What `take` takes."""
        return {"minutes": self.minutes, "steps": self.steps, "spent": self.spent}

    def take(self, state: dict[str, Any]) -> None:
        """Go on from there; where the minutes are others now, how many updates they come to is not known yet."""
        self._before, self._since = float(state["spent"]), self._clock()
        self.steps = state["steps"] if state["minutes"] == self.minutes else None


def updates_within(config: Settings, seconds: float, update: float) -> int:
    """How many updates of `update` seconds there is time for, with the previews and validations among them; at least 1.

    These are counted as forward passes of a batch, of which an update takes about two.
    """
    forward = _FORWARD * update / (config.loop.batch * config.loop.accumulate)  # of one picture
    each, once = update, 0.0
    if wanted := config.validation.every:
        measured = config.validation.images * config.validation.timesteps * forward
        times = 2 if config.tuner.kind == "csc" or config.validation.hold_out or config.validation.folder else 1
        each, once = each + times * measured / wanted, once + (times + 1) * measured
    if wanted := config.previews.every:
        shown = config.previews
        count = len(getattr(shown, "prompts", ())) or getattr(shown, "count", 1)
        drawn = count * 2 * getattr(shown, "steps", 0) * forward
        each, once = each + drawn / wanted, once + 2 * drawn
    return max(1, int(((1 - _RESERVE) * seconds - once) / each))


def of_length(loop: LoopSettings, steps: int) -> LoopSettings:
    """The loop's settings, of either kind, with that many updates, and the warmup that is the default for them where
    none is set."""
    if is_dataclass(loop):
        return replace(loop, steps=steps)
    warmup = {} if "warmup" in loop.model_fields_set else {"warmup": default_warmup(steps)}
    made = loop.model_copy(update={"steps": steps, "epochs": None, "minutes": None, **warmup})
    if warmup:  # which stays what it is by default
        made.model_fields_set.discard("warmup")
    return made
