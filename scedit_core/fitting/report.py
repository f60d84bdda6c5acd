"""report.html: what a run was, how it went and what came out, in one file that can be kept and sent."""

from __future__ import annotations

import base64
import contextlib
import datetime
import html
import io
import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .. import SCEditError, inspect_tuner
from ..saving import replace_file
from .curves import Curve, draw_curves, smooth, thin
from .event_log import EVENTS_FILE, latest_run_of_steps, read_events
from .pace import duration
from .remarks import printable
from .report_page import element, folded, inside, page, picture, table
from .tuner_file import STEP
from .verdict import verdict

CONFIG_FILE, REPORT_FILE = "config.yaml", "report.html"
_Events = list[dict[str, Any]]
_REFRESH = 20  # seconds
_SHEETS = 4  # previews that are shown where there is no grid of all
_ON_THE_WAY = (
    "Files beside the output, to choose from in ComfyUI; the best is the one with the lowest loss on pictures that it "
    "has not seen."
)
_CONFIGURED = "Everything that was set, defaults included: config.yaml of the run folder, which can be run again."
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


def write_report(run_folder: Path, live: bool = False, word: Callable[[str], str] = str) -> Path:
    """Write `report.html` into a run's folder from its events, previews and configuration, and return the path.

    live: the page loads itself again now and then, since the run goes on.  word: says a sentence about settings in the
    words of whoever trains.
    It may be written at any time, and again.  Raises OSError where there are no events or it cannot be written.
    """
    events = latest_run_of_steps(read_events(run_folder / EVENTS_FILE))
    of = {
        name: [e for e in events if e["event"] == name]
        for name in ("plan", "remarks", "step", "validation", "preview", "tuner", "note", "finished")
    }
    plan = of["plan"][-1] if of["plan"] else {}
    text = _read(run_folder / CONFIG_FILE)
    config = _values(text)
    title = config.get("title") or Path(config.get("output") or plan.get("output") or run_folder.name).stem
    kind = plan.get("kind") or (config.get("tuner") or {}).get("kind", "sc")
    again = f"; the run goes on, and this page loads itself again every {_REFRESH} seconds" if live else ""
    parts = [element("h1", title), element("p", _subtitle(kind, plan, events) + again, "soft")]
    if of["validation"]:
        seen = _seen(config.get("validation") or {}, of["validation"][-1])
        said = [html.escape(word(verdict(of["validation"]))), element("span", word(seen), "soft")]
        parts.append(inside("p", "<br>".join(said), "verdict"))
    facts = _facts(plan, of["step"]) + _costs(plan, of["preview"])
    tiles = (inside("div", element("dt", name) + element("dd", value)) for name, value in facts)
    parts.append(inside("dl", "\n".join(tiles), "facts"))
    files = _files(run_folder, of["finished"], plan)
    parts += [inside("p", f"{html.escape(name)}: {element('code', path)}") for name, path in files]
    curves = _curves(of["step"], of["validation"], plan) + _following(of["validation"], of["preview"])
    if curves:
        drawn = "\n".join(inside("div", element("h3", heading) + svg, "curve") for heading, svg in curves)
        parts += [element("h2", "Curves"), inside("div", drawn, "curves")]
    parts += _timesteps(of["validation"])
    parts += _tuners(run_folder, of["tuner"], of["finished"], of["validation"])
    parts += _pictures(run_folder / "previews", of["preview"], plan)
    notes = dict.fromkeys([*_remarks(of["remarks"]), *(e["message"] for e in of["note"])])
    if notes:
        parts += [element("h2", "Notes"), _list(notes)]
    if unused := plan.get("unused"):
        parts.append(folded(f"Files that are not used ({len(unused)})", _list(unused)))
    if text:
        parts.append(folded("Configuration", element("p", _CONFIGURED, "soft") + element("pre", text)))
    whole = printable(page(title, parts, _REFRESH if live else None))
    return replace_file(run_folder / REPORT_FILE, lambda part: part.write_text(whole, "utf-8"))


def _values(text: str | None) -> dict[str, Any]:
    """What a configuration says."""
    import yaml

    return (yaml.safe_load(text) if text else None) or {}


def _list(said: Iterable[str]) -> str:
    return inside("ul", "".join(element("li", each) for each in said))


def _pictures(folder: Path, previews: _Events, plan: dict[str, Any]) -> list[str]:
    """Pictures that are trained on, and what was drawn: all steps in one grid with the latest, else the latest few."""
    parts = []
    if trained := _data_uri(folder / "trained.jpg"):
        parts.append(element("p", "Some of the pictures that it is trained on.", "soft"))
        parts.append(picture(trained, "Pictures of the training set with their captions"))
    grid = _data_uri(folder / "grid.jpg")
    if grid:
        parts.append(element("p", "The same noise each time, as the training went on.", "soft"))
        parts.append(picture(grid, "A column for each prompt, a row for each step"))
    for event in previews[-1:] if grid else previews[-_SHEETS:]:
        if sheet := _data_uri(folder / Path(event["path"]).name):
            teacher = ", with the ControlNet" if plan.get("teacher") else ""
            said = f"Step {event['step']}: without the tuner{teacher}, with it."
            parts.append(element("p", _latest_caption(event) if grid else said, "soft"))
            parts.append(picture(sheet, "A row for each prompt: hint, without the tuner, with it"))
    return [element("h2", "Pictures"), *parts] if parts else []


def _latest_caption(preview: dict[str, Any]) -> str:
    said = f"After step {preview['step']}, larger."
    if preview.get("found_again") is None:
        return said
    return (
        f"{said} In the last column is the condition, found again in the result: {preview['found_again']:.4f} from the "
        "hint in the mean, where 0 is the same and 1 is white in place of black."
    )


def _files(run_folder: Path, finished: _Events, plan: dict[str, Any]) -> list[tuple[str, str]]:
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


def _tuners(run_folder: Path, kept: _Events, finished: _Events, validations: _Events) -> list[str]:
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
        found = sorted((run_folder / "previews" / "pictures").glob(f"step-{step:06d}-*.jpg"))[:_THUMBNAILS]
        shown = filter(None, map(_thumbnail, found if len(files) <= _ROWS else ()))
        name = Path(path).name + (" (best)" if step == best else "")
        loss = f"{losses[step]:.5f}" if step in losses else "not measured"
        cells = [element("td", each) for each in (name, step, loss)]
        cells.append(inside("td", "".join(picture(uri, f"step {step}") for uri in shown), "small"))
        rows.append(("best" if step == best else "", cells))
    return [
        element("h2", "Tuners on the way"),
        element("p", _ON_THE_WAY, "soft"),
        table(("file", "step", "loss", ""), rows),
    ]


def _thumbnail(path: Path) -> str | None:
    """A small copy of a picture as a data URI."""
    from PIL import Image

    data = io.BytesIO()
    with contextlib.suppress(OSError), Image.open(path) as picture:
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        picture.convert("RGB").save(data, "JPEG", quality=85)
        return _as_uri(data.getvalue())
    return None


def _remarks(told: _Events) -> list[str]:
    """Those of the last start."""
    return [remark["text"] for remark in told[-1]["remarks"]] if told else []


def _subtitle(kind: str, plan: dict[str, Any], events: _Events) -> str:
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


def _facts(plan: dict[str, Any], steps: _Events) -> list[tuple[str, str]]:
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


def _costs(plan: dict[str, Any], previews: _Events) -> list[tuple[str, str]]:
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


def _seconds_of(steps: _Events) -> float:
    """Time from step to step, without the pauses between a stop and the next start: at most ten minutes each."""
    times = [datetime.datetime.fromisoformat(e["time"]) for e in steps]
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(times)]
    return sum(each for each in gaps if 0 < each < 600)  # a clock may be set back


def _curves(steps: _Events, validations: _Events, plan: dict[str, Any]) -> list[tuple[str, str]]:
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
        measured = validations
        if plan.get("fresh") and validations[0]["step"] > 0:  # a fresh tuner changes nothing: all losses are the base's
            measured = [_untrained(validations[0]), *validations]
        drawn.append(("Validation loss, same noise each time", draw_curves(_told(measured, _LOSSES), "step")))
    for key, heading in (("learning_rate", "Learning rate"), ("grad_norm", "Norm of the gradient")):
        known = [(e["step"], e[key]) for e in steps if e.get(key) is not None]
        if len(known) > 1:
            x, y = zip(*known, strict=True)
            drawn.append((heading, draw_curves([Curve(*thin(x, y), None, "one")], "step")))
    return drawn


def _told(events: _Events, rows: Iterable[tuple[str, str | None, str]]) -> list[Curve]:
    """A curve over the steps for each key of `rows` that events have; of a step that was told twice the later one."""
    curves = []
    for key, name, color in rows:
        known = sorted({e["step"]: e[key] for e in events if e.get(key) is not None}.items())
        if known:
            curves.append(Curve(*zip(*known, strict=True), name, color, dots=len(known) <= 40))
    return curves


def _untrained(validation: dict[str, Any]) -> dict[str, Any]:
    """What a validation says before the first update, from what it says of the base alone."""
    base = validation["loss_without"]
    own = validation.get("loss_trained_without")
    known = {"loss_with": base, "loss_without": base, "loss_other_hint": base, "loss_trained": own}
    known["loss_teacher"] = validation.get("loss_teacher")
    return {"step": 0} | {key: value for key, value in known.items() if validation.get(key) is not None}


def _following(validations: _Events, previews: _Events) -> list[tuple[str, str]]:
    """Headings and drawings of how near a tuner comes to its teacher, and of how well pictures follow edges."""
    curves = {
        "Share of what the ControlNet adds to the skips": _told(validations, [("agreement", None, "one")]),
        "Edges of the previews against their hints, F1": _told(previews, _FOLLOWED),
    }
    return [(heading, draw_curves(each, "step")) for heading, each in curves.items() if each]


def _timesteps(validations: _Events) -> list[str]:
    """The table of the last validation."""
    last = validations[-1] if validations else {}
    measured = last.get("by_timestep")
    if not measured:
        return []
    keys = [(key, name) for key, name, _ in _LOSSES if key in measured[0]]
    rows = [[row["timestep"], *("" if row[key] is None else f"{row[key]:.5f}" for key, _ in keys)] for row in measured]
    count = last.get("images")
    images = "the same pictures" if count is None else f"{count} picture{'s' * (count != 1)}"
    said = (
        f"Mean squared error after step {last['step']}, on {images} at the same noise each time. High timesteps decide "
        "on the composition, low ones on details."
    )
    cells = [("", [element("td", value) for value in row]) for row in rows]
    shown = table(["timestep", *(name for _, name in keys)], cells)
    return [element("h2", "Validation by timestep"), element("p", said, "soft"), shown]


def _data_uri(path: Path) -> str | None:
    try:
        return _as_uri(path.read_bytes())
    except OSError:
        return None


def _as_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except OSError:
        return None
