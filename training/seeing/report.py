"""report.html: what a run was, how it went and what came out, in one file that can be kept and sent."""

from __future__ import annotations

import base64
import contextlib
import datetime
import io
import itertools
import os
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment
from PIL import Image

from scedit_core import SCEditError, inspect_tuner
from scedit_core.fitting.event_log import EVENTS_FILE, latest_run_of_steps, read_events
from scedit_core.fitting.pace import duration
from scedit_core.fitting.remarks import printable
from scedit_core.fitting.tuner_file import STEP
from scedit_core.fitting.verdict import verdict

from .curves import Curve, draw_curves, smooth, thin
from .report_page import PAGE
from .run_config import CONFIG_FILE, REPORT_FILE

_REFRESH = 20  # seconds
_THUMBNAILS, _THUMBNAIL, _ROWS = 4, 160, 24  # pictures for each tuner, their longest side, and tuners that have them
_KINDS = {"sc": "SC-Tuner", "csc": "Controllable SC-Tuner"}
# The losses of a validation: key, name in legends and tables, colour.
_LOSSES = (
    ("loss_with", "with the tuner", "one"),
    ("loss_without", "without it", "two"),
    ("loss_other_hint", "with it and another picture's hint", "three"),
    ("loss_trained", "with it, on pictures trained on", "four"),
    ("loss_teacher", "with the ControlNet", "five"),
)
_FOLLOWED = (
    ("edge_f1_with", "with the tuner", "one"),
    ("edge_f1_without", "without it", "two"),
    ("edge_f1_teacher", "with the ControlNet", "five"),
)


def write_report(run_folder: Path, live: bool = False) -> Path:
    """Write `report.html` into a run's folder from its events, previews and configuration, and return the path.

    live: the page loads itself again now and then, since the run goes on.
    It may be written at any time, and again.  Raises OSError where there are no events or it cannot be written.
    """
    events = latest_run_of_steps(read_events(run_folder / EVENTS_FILE))
    of = {
        name: [e for e in events if e["event"] == name]
        for name in ("plan", "remarks", "step", "validation", "preview", "tuner", "note", "finished")
    }
    plan = of["plan"][-1] if of["plan"] else {}
    last = of["validation"][-1] if of["validation"] else None
    text = _read(run_folder / CONFIG_FILE)
    config = (yaml.safe_load(text) if text else None) or {}
    kind = (config.get("tuner") or {}).get("kind", "sc")
    name = config.get("title") or Path(config.get("output", run_folder.name)).stem
    latest = run_folder / "previews" / Path(of["preview"][-1]["path"]).name if of["preview"] else None
    page = Environment(autoescape=True, trim_blocks=True).from_string(PAGE)
    html = page.render(
        title=name,
        subtitle=_subtitle(kind, plan, events),
        verdict=verdict(of["validation"]) if last else None,
        seen=_seen(config.get("validation") or {}, last or {}),
        facts=_facts(plan, of["step"]) + _costs(plan, of["preview"]),
        refresh=_REFRESH if live else None,
        files=_files(run_folder, of["finished"], plan),
        tuners=_tuners(run_folder, of["tuner"], of["finished"], of["validation"]),
        curves=_curves(of["step"], of["validation"], plan) + _following(of["validation"], of["preview"]),
        timesteps=_timesteps(last),
        validation_step=last and last["step"],
        validation_images=f"{last['images']} picture{'s' * (last['images'] != 1)}"
        if last and "images" in last
        else "the same pictures",
        grid=_data_uri(run_folder / "previews" / "grid.jpg"),
        latest=latest and _data_uri(latest),
        latest_caption=latest and _latest_caption(of["preview"][-1]),
        trained=_data_uri(run_folder / "previews" / "trained.jpg"),
        unused=plan.get("unused") or [],
        notes=list(dict.fromkeys([*_remarks(of["remarks"]), *(e["message"] for e in of["note"])])),
        config=text,
    )
    path = run_folder / REPORT_FILE
    part = path.with_suffix(".part")
    part.write_text(printable(html), "utf-8")
    os.replace(part, path)
    return path


def _latest_caption(preview: dict[str, Any]) -> str:
    said = f"After step {preview['step']}, larger."
    if preview.get("found_again") is None:
        return said
    return (
        f"{said} In the last column is the condition, found again in the result: {preview['found_again']:.4f} from the "
        "hint in the mean, where 0 is the same and 1 is white in place of black."
    )


def _files(run_folder: Path, finished: list[dict[str, Any]], plan: dict[str, Any]) -> list[tuple[str, str]]:
    """What the run has made, and where it lies."""
    files = []
    if finished:
        files.append(("tuner", finished[-1]["path"]))
    elif plan.get("output"):
        files.append(("tuner, when it is finished", plan["output"]))
    best = run_folder / "best.safetensors"
    if best.is_file():
        step = None
        with contextlib.suppress(SCEditError):
            step = inspect_tuner(best)["metadata"].get(STEP)
        files.append((f"best by validation{f', of step {step}' if step else ''}", str(best)))
    return [(name, os.path.abspath(path)) for name, path in files]


def _tuners(
    run_folder: Path,
    kept: list[dict[str, Any]],
    finished: list[dict[str, Any]],
    validations: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """A row for each tuner file of the run: name, step, the loss measured there, pictures, and whether it is the best
    of them by that loss.  Empty where none was kept on the way."""
    if not kept:
        return []
    files = {event["step"]: event["path"] for event in kept}
    if finished and isinstance(finished[-1].get("step"), int):
        files[finished[-1]["step"]] = finished[-1]["path"]
    losses = {event["step"]: event["loss_with"] for event in validations if event.get("unseen", True)}
    measured = {step: losses[step] for step in files if step in losses}
    best = min(measured, key=measured.get) if measured else None
    rows = []
    for step, path in sorted(files.items()):
        pictures = sorted((run_folder / "previews" / "pictures").glob(f"step-{step:06d}-*.jpg"))[:_THUMBNAILS]
        loss = f"{losses[step]:.5f}" if step in losses else "not measured"
        shown = [_thumbnail(picture) for picture in pictures] if len(files) <= _ROWS else []
        rows.append({"name": Path(path).name, "step": step, "loss": loss, "best": step == best, "pictures": shown})
    return rows


def _thumbnail(path: Path) -> str | None:
    """A small copy of a picture as a data URI."""
    data = io.BytesIO()
    try:
        with Image.open(path) as picture:
            picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
            picture.convert("RGB").save(data, "JPEG", quality=85)
    except OSError:
        return None
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def _remarks(told: list[dict[str, Any]]) -> list[str]:
    """Those of the last start."""
    return [remark["text"] for remark in told[-1]["remarks"]] if told else []


def _subtitle(kind: str, plan: dict[str, Any], events: list[dict[str, Any]]) -> str:
    parts = [_KINDS.get(kind, kind)]
    if plan.get("condition"):
        parts[0] += f" for {str(plan['condition']).replace('_', ' ')}"
    if plan.get("base"):
        parts.append(f"trained on {plan['base']}")
    if plan.get("swept"):
        parts.append(f"a sweep of {len(plan['swept'])} tuners, which sweep.html beside this page compares")
    steps = [e for e in events if e["event"] == "step"]
    if steps:
        done, wanted = steps[-1]["step"], steps[-1]["steps"]
        parts.append(f"{done} steps" if done >= wanted else f"{done} of {wanted} steps so far")
    if events:
        parts.append(datetime.datetime.fromisoformat(events[-1]["time"]).strftime("%d %B %Y, %H:%M"))
    return ", ".join(parts)


def _seen(wanted: dict[str, Any], last: dict[str, Any]) -> str:
    """What was measured.  wanted: the configuration's validation, of which a small set may not have fulfilled all."""
    others = bool(wanted.get("folder") or wanted.get("hold_out"))
    if last.get("unseen", others):
        return "Measured on pictures that it was not trained on."
    if others:
        return (
            "Measured on pictures that it was trained on: with other pictures in validation.folder it would be on "
            "those."
        )
    return "Measured on pictures that it was trained on: with validation.hold_out it would be on others."


def _facts(plan: dict[str, Any], steps: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Names and values of the tiles."""
    facts = []
    if plan.get("swept"):  # each has a number of its own
        plan = {**plan, "parameters": None}
    if plan.get("epochs") and plan.get("steps") and steps:  # of those that were made, not of those that were planned
        plan = {**plan, "epochs": plan["epochs"] * steps[-1]["step"] / plan["steps"]}
    for key, name, form in (
        ("images", "pictures", "{:,}"),
        ("resolution", "resolution", "{} px"),
        ("batch", "pictures in an update", "{}"),
        ("epochs", "rounds through them", "{:.1f}"),
        ("parameters", "parameters trained", "{:,}"),
    ):
        if isinstance(plan.get(key), (int, float)):
            facts.append((name, form.format(plan[key])))
    speeds = sorted(e["images_per_second"] for e in steps if e.get("images_per_second"))
    if speeds:
        facts.append(("pictures a second", f"{speeds[len(speeds) // 2]:.2f}"))
    memory = [e["memory_mib"] for e in steps if e.get("memory_mib")]
    if memory:
        facts.append(("most memory", f"{max(memory) / 1024:.1f} GiB"))
    if steps and steps[-1].get("skipped"):
        facts.append(("updates skipped", f"{steps[-1]['skipped']:,}"))
    if len(steps) > 1:
        facts.append(("time", duration(_seconds_of(steps))))
    return facts


def _costs(plan: dict[str, Any], previews: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Names and values of the tiles that compare a tuner with the ControlNet that teaches it."""
    if not plan.get("teacher_parameters"):
        return []
    facts = [("parameters of the ControlNet", f"{plan['teacher_parameters']:,}")]
    for key, name in (("seconds_with", "the tuner"), ("seconds_teacher", "the ControlNet")):
        spent = [(e[key], e["seconds_without"]) for e in previews if e.get(key) and e.get("seconds_without")]
        if spent:
            without = min(each for _, each in spent)
            share = min(each for each, _ in spent) / without - 1
            facts.append((f"added by {name} to a preview's {1000 * without:.0f} ms a step", f"{share * 100:+.0f} %"))
    return facts


def _seconds_of(steps: list[dict[str, Any]]) -> float:
    """Time from step to step, without the pauses between a stop and the next start: at most ten minutes each."""
    times = [datetime.datetime.fromisoformat(e["time"]) for e in steps]
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(times)]
    return sum(each for each in gaps if 0 < each < 600)  # a clock may be set back


def _curves(
    steps: list[dict[str, Any]], validations: list[dict[str, Any]], plan: dict[str, Any]
) -> list[tuple[str, str]]:
    """Headings and drawings."""
    drawn = []
    losses = [(e["step"], e["loss"]) for e in steps if e.get("loss") is not None]
    if len(losses) > 1:
        x, y = zip(*losses, strict=True)
        mean = thin(x, smooth(y))
        curves = [Curve(*thin(x, y), "each step", "one", faint=True), Curve(*mean, "mean", "one")]
        heading = "Training loss, the mean of all tuners" if plan.get("swept") else "Training loss"
        drawn.append((heading, draw_curves(curves, "step")))
    if validations:
        at = {e["step"]: e for e in validations}
        if plan.get("fresh") and 0 not in at:  # a fresh tuner changes nothing: all losses are the base's
            at[0] = _untrained(validations[0])
        curves = []
        for key, name, color in _LOSSES:
            known = [(step, e[key]) for step, e in sorted(at.items()) if e.get(key) is not None]
            if known:
                curves.append(Curve(*zip(*known, strict=True), name, color, dots=len(known) <= 40))
        drawn.append(("Validation loss, same noise each time", draw_curves(curves, "step")))
    for key, heading in (("learning_rate", "Learning rate"), ("grad_norm", "Norm of the gradient")):
        known = [(e["step"], e[key]) for e in steps if e.get(key) is not None]
        if len(known) > 1:
            x, y = zip(*known, strict=True)
            drawn.append((heading, draw_curves([Curve(*thin(x, y), None, "one")], "step")))
    return drawn


def _untrained(validation: dict[str, Any]) -> dict[str, Any]:
    """What a validation says before the first update, from what it says of the base alone."""
    base = validation["loss_without"]
    own = validation.get("loss_trained_without")
    known = {"loss_with": base, "loss_without": base, "loss_other_hint": base, "loss_trained": own}
    known["loss_teacher"] = validation.get("loss_teacher")
    return {key: value for key, value in known.items() if validation.get(key) is not None}


def _following(validations: list[dict[str, Any]], previews: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Headings and drawings of how near a tuner comes to its teacher, and of how well pictures follow edges."""
    drawn = []
    near = {e["step"]: e["agreement"] for e in validations if e.get("agreement") is not None}
    if near:
        curve = Curve(*zip(*sorted(near.items()), strict=True), None, "one", dots=len(near) <= 40)
        drawn.append(("Share of what the ControlNet adds to the skips", draw_curves([curve], "step")))
    curves = []
    for key, name, color in _FOLLOWED:
        known = sorted({e["step"]: e[key] for e in previews if e.get(key) is not None}.items())
        if known:
            curves.append(Curve(*zip(*known, strict=True), name, color, dots=len(known) <= 40))
    if curves:
        drawn.append(("Edges of the previews against their hints, F1", draw_curves(curves, "step")))
    return drawn


def _timesteps(validation: dict[str, Any] | None) -> dict[str, list] | None:
    """Names and rows of the table of the last validation."""
    rows = (validation or {}).get("by_timestep")
    if not rows:
        return None
    keys = [(key, name) for key, name, _ in _LOSSES if key in rows[0]]
    table = [[row["timestep"], *("" if row[key] is None else f"{row[key]:.5f}" for key, _ in keys)] for row in rows]
    return {"names": [name for _, name in keys], "rows": table}


def _data_uri(path: Path) -> str | None:
    try:
        return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError:
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except OSError:
        return None
