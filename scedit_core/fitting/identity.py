"""What makes a run the same run: what it trains, and not where that lies."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from .settings import LoopSettings, ObjectiveSettings, Settings

# What may differ between a checkpoint and the run that goes on from it: nothing that its numbers depend on.  Files and
# pictures are told apart by their content (`Run.files`, `Run.contents`).
_FREE = {
    "": {
        *("base", "vae", "prediction", "tokenizer", "output", "run", "run_folder", "title"),
        *("memory", "saving", "previews", "sweep", "tensorboard", "wandb"),
    },
    "tuner": {"start_from"},
    "data": {"folder", "shards", "hints", "masks", "cache", "annotators", "bad_files"},
    "data.prior": {"folder"},
    "data.folders": {"folder", "hints", "masks"},
    "data.condition": {"detector", "persons"},
    "teacher": {"controlnet"},
    "loop": {"steps", "epochs", "minutes", "warmup"},  # of which the default follows from the steps
    "validation": {"every", "first", "images", "timesteps", "folder"},
}
# What a checkpoint from before there was such a key was trained with.
_DEFAULTS = {
    f"{section}.{key}": value
    for section, settings in (("objective", ObjectiveSettings()), ("loop", LoopSettings()))
    for key, value in settings.values().items()
}
_WHOLE = {"loop.optimizer_arguments", "loop.block_rates"}  # compared as they are, whatever keys they have
_NAMED = (("tuner", "start_from"), ("data", "hints"), ("data", "masks"))


def settings_of(config: Settings) -> dict[str, Any]:
    """The settings that a run's numbers depend on, as plain values."""
    return _without(config.values(), "")


def differences(before: dict[str, Any], config: Settings) -> list[str]:
    """The settings that are other than they were, each with both values; those not known then do not count."""
    return _differences(before, settings_of(config), "")


def renamed(before: dict[str, Any], config: Settings) -> list[str]:
    """Files and folders that had another name, each with both, for a checkpoint that knows no digests."""
    now = config.values()
    pairs = [(f"{part}.{key}", _named(before, part, key), _named(now, part, key)) for part, key in _NAMED]
    return [f"{key} ({a} before, {b} now)" for key, a, b in pairs if a != b]


def picture_of(example: Any) -> list[str | None]:
    """What of an example is trained on, by digests."""
    partners = (partner and partner.digest for partner in (example.hint, example.mask))
    return [example.digest, getattr(example, "words", example.caption), *partners]


def digest(values: list) -> str | None:
    """Of the values in any order, 16 hexadecimal digits; None for none."""
    text = "\n".join(sorted(map(json.dumps, values)))
    return hashlib.sha256(text.encode()).hexdigest()[:16] if values else None


def digest_of(path: Path) -> str:
    """BLAKE2b of a file's content, 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _named(values: dict[str, Any], part: str, key: str) -> str | None:
    value = (values.get(part) or {}).get(key)
    return value and Path(value).name


def _without(values: dict[str, Any], key: str) -> dict[str, Any]:
    def inner(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [inner(name, each) for each in value]
        return _without(value, f"{key}.{name}".lstrip(".")) if isinstance(value, dict) else value

    return {name: inner(name, value) for name, value in values.items() if name not in _FREE.get(key, ())}


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str) -> list[str]:
    found = []
    for key, b in now.items():
        a = before.get(key, _DEFAULTS.get(f"{prefix}{key}", b))
        if isinstance(a, dict) and isinstance(b, dict) and f"{prefix}{key}" not in _WHOLE:
            found += _differences(a, b, f"{prefix}{key}.")
        elif _alike(a, b):
            for i, (old, new) in enumerate(zip(a, b, strict=True)):
                found += _differences(old, new, f"{prefix}{key}.{i}.")
        elif a != b:
            found.append(f"{prefix}{key} ({a} before, {b} now)")
    return found


def _alike(a: Any, b: Any) -> bool:
    """Whether both are as many sections, such as folders, of which those from before may lack keys."""
    lists = isinstance(a, list) and isinstance(b, list) and len(a) == len(b)
    return lists and all(isinstance(each, dict) for each in (*a, *b))
