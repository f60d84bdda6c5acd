"""report.html of a run in ComfyUI's process: what it was, the curve of its loss, what validation says, the pictures."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...scedit_core.fitting.event_log import EVENTS_FILE, latest_run_of_steps, read_events
from ...scedit_core.fitting.verdict import verdict
from .wording import on_the_node

_STYLE = """:root { color-scheme: light dark } body { font: 16px/1.5 system-ui, sans-serif; max-width: 900px;
margin: 40px auto; padding: 0 16px } svg { width: 100%; height: 220px; border: 1px solid #8886 } img { max-width: 100% }
th, td { text-align: right; padding: 2px 16px 2px 0 } polyline { fill: none; stroke: #2f6fb5; stroke-width: 1.5 }"""

_COSTS = (("without", "without either"), ("with", "with the tuner"), ("teacher", "with the ControlNet"))


class Report:
    """Writes the report of a run whenever it ends, finished or stopped."""

    def __init__(self, run_folder: Path, title: str) -> None:
        self._folder, self._title = run_folder, title

    def take(self, event: dict[str, Any]) -> None:
        """Write it at an end.  Raises OSError where it cannot be written."""
        if event["event"] in ("finished", "stopped", "error"):
            write_report(self._folder, self._title)

    def close(self) -> None:
        """Nothing is open."""


def write_report(run_folder: Path, title: str) -> Path:
    """Write `report.html` into a run's folder from its events and previews, and return the path."""
    events = latest_run_of_steps(read_events(run_folder / EVENTS_FILE))
    of = {name: [e for e in events if e["event"] == name] for name in ("plan", "step", "validation", "preview", "note")}
    losses = [(e["step"], e["loss"]) for e in of["step"] if e.get("loss") is not None]
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if of["plan"]:
        plan = of["plan"][-1]
        names = ("base", "family", "kind", "condition", "images", "batch", "steps", "parameters", "precision")
        parts.append("<p>" + ", ".join(f"{n} {html.escape(str(plan[n]))}" for n in names if plan.get(n)) + "</p>")
    if of["validation"]:
        parts.append(f"<p><b>{html.escape(on_the_node(verdict(of['validation'])))}</b></p>")
    if len(losses) > 1:
        parts.append(f"<h2>Loss</h2>{_curve(losses)}<p>Step {losses[0][0]} to {losses[-1][0]}.</p>")
    if of["validation"]:
        measured = of["validation"][-1]  # a single picture has no other one's hint
        keys = [k for k, value in measured.items() if k.startswith("loss_") and value is not None]
        head = "".join(f"<th>{k.removeprefix('loss_').replace('_', ' ')}</th>" for k in keys)
        rows = "".join(
            f"<tr><td>{e['step']}</td>" + "".join(f"<td>{e.get(k, 0):.5f}</td>" for k in keys) + "</tr>"
            for e in of["validation"]
        )
        parts.append(f"<h2>Validation loss</h2><table><tr><th>step</th>{head}</tr>{rows}</table>")
    parts += _beside_teacher(of["plan"], of["validation"], of["preview"])
    for event in of["preview"][-4:]:
        picture = run_folder / "previews" / Path(event["path"]).name
        if picture.is_file():
            data = base64.b64encode(picture.read_bytes()).decode("ascii")
            teacher = ", with the ControlNet" if of["plan"] and of["plan"][-1].get("teacher") else ""
            parts.append(f"<p>Step {event['step']}: without the tuner{teacher}, with it.</p>")
            parts.append(f'<img src="data:image/jpeg;base64,{data}">')
    notes = dict.fromkeys(e["message"] for e in of["note"])
    if notes:
        parts.append("<h2>Notes</h2><ul>" + "".join(f"<li>{html.escape(n)}</li>" for n in notes) + "</ul>")
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
    path = run_folder / "report.html"
    part = path.with_suffix(".part")
    part.write_text(f"{page}<style>{_STYLE}</style><body>{''.join(parts)}</body></html>", "utf-8")
    os.replace(part, path)
    return path


def _beside_teacher(plans: list[dict], validations: list[dict], previews: list[dict]) -> list[str]:
    """How near the tuner comes to a ControlNet that teaches it, how well edges are followed, and what each costs."""
    parts, at = [], {}
    for event in (*validations, *previews):
        at.setdefault(event["step"], {}).update(event)
    names = {"agreement": "of what the ControlNet adds", "edge_f1_with": "edges, with the tuner"}
    names |= {"edge_f1_without": "edges, without", "edge_f1_teacher": "edges, with the ControlNet"}
    keys = [key for key in names if any(key in event for event in at.values())]
    if keys:
        head = "".join(f"<th>{names[key]}</th>" for key in keys)
        rows = "".join(
            f"<tr><td>{step}</td>"
            + "".join(f"<td>{event[key] * 100:.0f} %</td>" if key in event else "<td></td>" for key in keys)
            + "</tr>"
            for step, event in sorted(at.items())
        )
        parts.append(
            f"<h2>How well it follows</h2><table><tr><th>step</th>{head}</tr>{rows}</table><p>Edges: F1 of those found "
            "in the previews against the hints.</p>"
        )
    if plans and plans[-1].get("teacher_parameters"):
        sizes = f"{plans[-1]['parameters']:,} parameters, the ControlNet {plans[-1]['teacher_parameters']:,}"
        last = previews[-1] if previews else {}
        costs = [f"{last[f'seconds_{k}'] * 1000:.0f} ms {text}" for k, text in _COSTS if f"seconds_{k}" in last]
        spent = f" A sampling step of a preview took {', '.join(costs)}." if costs else ""
        parts.append(f"<p>The tuner has {sizes}.{spent}</p>")
    return parts


def _curve(points: Sequence[tuple[int, float]]) -> str:
    """The losses and nothing else, as SVG."""
    stride = max(1, len(points) // 1500)
    points = [*points[::stride], points[-1]]
    low, high = min(y for _, y in points), max(y for _, y in points)
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1)
    told = " ".join(
        f"{(x - first) / (last - first) * 600:.1f},{110 - (y - low) / ((high - low) or 1) * 100:.1f}" for x, y in points
    )
    return f'<svg viewBox="0 0 600 120" preserveAspectRatio="none"><polyline points="{told}"/></svg>'
