"""A tuner in words: what a person wants to know before using it."""

from __future__ import annotations

import json

from .layout import FAMILY_TITLES
from .tuners import CSCTuner, SCTuner


def describe(tuner: SCTuner | CSCTuner, source: str = "") -> str:
    """One line for each property: kind, family, size, condition, prediction, trained resolution, source."""
    notes = tuner.metadata
    parameters = sum(p.numel() for p in tuner.parameters())
    kind = "Controllable SC-Tuner (control)" if isinstance(tuner, CSCTuner) else "SC-Tuner (style or subject)"
    lines = {
        "title": notes.get("modelspec.title"),
        "kind": kind,
        "base model": FAMILY_TITLES.get(tuner.layout.family, tuner.layout.family),
        "size": f"{parameters / 1e6:.2f} M parameters, {str(tuner.dtype).removeprefix('torch.')}",
        "blocks": f"{len(tuner.blocks)} of {len(tuner.layout)} skips edited: {', '.join(map(str, tuner.blocks))}",
        "hidden widths": ", ".join(map(str, tuner.hidden().values())),
        "condition": _condition(notes.get("scedit.condition")) if isinstance(tuner, CSCTuner) else None,
        "scale": f"{tuner.scale:g}" if isinstance(tuner, CSCTuner) else None,
        "prediction": notes.get("scedit.prediction", "not stated"),
        "trained resolution": notes.get("scedit.resolution", "not stated"),
        "trigger": notes.get("modelspec.trigger_phrase"),
        "description": notes.get("modelspec.description"),
        "author": notes.get("modelspec.author"),
        "license": notes.get("modelspec.license"),
        "source": source or None,
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items() if value)


def _condition(text: str | None) -> str:
    """The condition's type, and how its hint is made where the file says so."""
    if not text:
        return "not stated"
    try:
        condition = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(condition, dict):
        return str(condition)
    options = ", ".join(f"{k} {v}" for k, v in condition.items() if k != "type")
    return str(condition.get("type", "not stated")) + (f" ({options})" if options else "")
