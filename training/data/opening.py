"""Opening the training set that a configuration names, whether it lies in folders or in shards."""

from __future__ import annotations

from collections.abc import Callable

from ..bases.base_model import BaseModel
from ..config import TrainConfig
from .folder_set import FolderSet
from .shard_set import ShardSet
from .training_set import TrainingSet


def open_data(
    base: BaseModel,
    config: TrainConfig,
    say: Callable[..., None] = lambda event, **values: None,
    process: tuple[int, int] = (0, 1),
) -> TrainingSet:
    """The set that `config` names, with everything encoded that can be encoded beforehand.

    say:     told "caching" with done, total, hits and misses as it goes on, and "note" with a message.
    process: rank and number of processes; each encodes a part of its own, and then helps the others.

    Raises DataError, and ConditionError where a detector is missing.
    """
    kind = FolderSet if config.data.shards is None else ShardSet
    return kind.prepared(base, config, say, process)
