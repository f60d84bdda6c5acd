"""What a run is about to do, told before its first update."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .new_tuner import trainable
from .run import Run

_UNUSED = 200  # files that are named in the plan


def plan(run: Run) -> dict[str, Any]:
    """What is about to happen, for people and for programs."""
    config, loop = run.config, run.config.loop
    seen = loop.batch * loop.accumulate * run.accelerator.num_processes
    rows = getattr(run.data, "round_rows", None) or len(run.data.examples)
    return {
        "base": run.base.name,
        "family": run.base.layout.title,
        "prediction": run.base.prediction,
        "kind": config.tuner.kind,
        "condition": None if config.data.condition is None else config.data.condition.type,
        "parameters": sum(p.numel() for p in trainable(run.tuner)),
        "blocks": len(run.tuner.blocks),
        "skips": len(run.base.layout),
        "images": len(run.data.examples) or None,  # shards are not counted
        "resolution": config.data.resolution,
        "batch": seen,
        "first_step": run.step,
        "steps": loop.steps,
        "epochs": loop.steps * seen / rows if rows else None,
        "fresh": config.tuner.start_from is None,
        "optimizer": loop.optimizer,
        "learning_rate": loop.learning_rate,
        "schedule": loop.schedule,
        "restarts": loop.restarts,
        "warmup": loop.warmup,
        "buckets": _sizes(run),
        "unused": list(getattr(run.data, "problems", ()))[:_UNUSED],
        "teacher": None if run.lessons is None else run.lessons.plan(loop.steps),
        "teacher_parameters": None if run.lessons is None else run.lessons.teacher.parameters,
        "precision": str(run.base.compute_dtype).removeprefix("torch."),
        "device": str(run.accelerator.device),
        "output": str(config.output),
    }


def _sizes(run: Run) -> list[tuple[int, int, int]]:
    """Width, height and number of the pictures of each size, the most frequent first, where pictures are counted."""
    if not hasattr(run.data, "buckets"):
        return []
    every = (getattr(example, "sizes", ()) or (example.bucket,) for example in run.data.examples)
    counts = Counter(size for sizes in every for size in sizes)
    return [(*size, count) for size, count in counts.most_common()]
