"""What the page shows of a training: a line of text, remarks, the verdict, the curve of the loss, the latest preview.

Every page gets it, not only the one that queued the graph: as messages, and for pages that are opened later as
`GET /scedit/training`.  web/js/training.js draws it on the node, in the words of locales/*/main.json.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
from aiohttp import web

from ...scedit_core import SCEditError
from ...scedit_core.fitting.pace import duration
from ...scedit_core.fitting.verdict import sentences
from ..sentences import with_short_paths
from .wording import on_the_node

MESSAGE = "scedit.training"
_EVERY_SECONDS = 0.5
_MOST_POINTS = 120
_MOST_RUNS = 8
_MEAN = 0.02  # the loss shown is a running mean over about fifty steps

_ENGLISH = Path(__file__).resolve().parents[2] / "locales" / "en" / "main.json"

# The last few trainings by name, as the page gets them, where their latest preview lies, and those that run.
_shown: dict[str, dict[str, Any]] = {}
_previews: dict[str, Path] = {}
_running: dict[str, TrainingPage] = {}

Words = str | tuple[str, dict[str, Any]]  # a sentence, or the key of one in main.json with what is put into it


class TrainingPage:
    """One training on the page, from the first check of its widgets to its end.

    node: the id of the node that trains.  name: the tuner's name, by which a page that was opened later knows it.
    workflow: the id of the workflow whose node it is; None where no page queued it.  has_keys: whether the node takes a
    YAML file with the trainer's keys.
    """

    def __init__(self, node: str | None, workflow: str | None, name: str, has_keys: bool = False) -> None:
        self._run, self._told, self._has_keys = Path(), 0.0, has_keys
        self._places: dict[str, Path] = {}
        self._mean: float | None = None
        self._heard = 0  # losses
        self._validations: list[dict[str, Any]] = []
        self._english = json.loads(_ENGLISH.read_text("utf-8"))["scedit"]["training"]
        self.stop_wanted = False  # the panel's own button was pressed
        self._state: dict[str, Any] = {
            "node": node,
            "workflow": workflow,
            "name": name,
            "started": time.time(),
            "changed": time.time(),
            "state": "running",
            "files": {},
            "remarks": [],
            "verdict": [],
            "step": 0,
            "steps": 0,
            "losses": [],
            "preview": None,
        }
        _previews.pop(name, None)
        _running[name] = self
        self.say(("starting", {}))

    def at(self, name: str, run: Path, tuner: str) -> None:
        """What it makes is known: the name without ending, the run folder, and the path of the tuner's file."""
        _running.pop(self._state["name"], None)
        _shown.pop(self._state["name"], None)
        self._run, self._state["name"] = run, name
        _running[name] = self
        self._places = {"tuner": Path(tuner), "report": run / "report.html", "checkpoints": run / "checkpoints"}
        _previews.pop(name, None)
        self._tell()

    def take(self, event: dict[str, Any]) -> None:
        """Show an event of the trainer; unknown ones are none of the page's business."""
        kind, state = event.get("event"), self._state
        if isinstance(event.get("step"), int):
            state["step"] = event["step"]
        if kind == "plan":
            state["step"], state["steps"] = int(event.get("first_step") or 0), int(event.get("steps") or 0)
            self._word(("plan", {"images": event.get("images", 0), "steps": state["steps"]}))
        elif kind == "remarks":
            state["remarks"] = [str(remark.get("text", "")) for remark in event.get("remarks", [])]
        elif kind == "caching":
            self._word(("caching", {"done": event.get("done", 0), "total": event.get("total", 0)}))
        elif kind == "step":
            self._step(event)
            return
        elif kind == "validation":
            self._validations.append(event)
            said = sentences(self._validations)
            state["verdict"] = [[s.key, s.values, on_the_node(s.english, self._has_keys)] for s in said]
        elif kind == "preview":
            path = self._run / str(event.get("path", ""))
            if path.is_file():
                _previews[state["name"]] = path
                state["preview"] = state["step"]
        else:
            return
        self._tell()

    def close(self) -> None:
        """Of no use to a page, which waits for `end`."""

    def end(self, state: str, *words: Words) -> None:
        """The last word: state is "finished", "stopped" or "failed"."""
        self._state["state"] = state
        _running.pop(self._state["name"], None)
        self.say(*words)

    def say(self, *words: Words) -> None:
        """Show a line of text."""
        self._word(*words)
        self._tell()

    def _word(self, *words: Words) -> None:
        parts = [[None, with_short_paths(each)] if isinstance(each, str) else list(each) for each in words]
        texts = [self._english[key].format(**values) if key else values for key, values in parts]
        self._state |= {"words": parts, "text": ", ".join(texts)}

    @property
    def step(self) -> int:
        """The last step heard of."""
        return self._state["step"]

    @property
    def steps(self) -> int:
        """How many steps it will be, 0 where that is not known yet."""
        return self._state["steps"]

    def _step(self, event: dict[str, Any]) -> None:
        state = self._state
        step, steps, loss = state["step"], state["steps"], event.get("loss")
        if isinstance(loss, (int, float)):
            self._heard += 1
            before = loss if self._mean is None else self._mean
            self._mean = before + max(_MEAN, 1 / self._heard) * (loss - before)
            state["losses"].append([step, round(self._mean, 5)])
            if len(state["losses"]) > _MOST_POINTS:
                del state["losses"][1:-1:2]
        parts: list[Words] = [("step", {"step": step, "steps": steps})]
        if self._mean is not None:
            parts.append(("loss", {"loss": f"{self._mean:.4f}"}))
        if event.get("images_per_second"):
            parts.append(("speed", {"speed": f"{event['images_per_second']:.1f}"}))
        if event.get("memory_mib"):
            parts.append(("memory", {"memory": f"{event['memory_mib'] / 1024:.1f}"}))
        if event.get("eta_seconds") is not None:
            parts.append(("left", {"time": duration(event["eta_seconds"])}))
        self._word(*parts)
        if step == steps or time.monotonic() - self._told > _EVERY_SECONDS:
            self._tell()

    def _tell(self) -> None:
        self._told, self._state["changed"] = time.monotonic(), time.time()
        places = {key: path for key, path in self._places.items() if path.exists()}
        self._state["files"] = {key: with_short_paths(str(path)) for key, path in places.items()}
        state = {**self._state, "losses": list(self._state["losses"])}
        _shown.pop(state["name"], None)
        _shown[state["name"]] = state
        for old in list(_shown)[:-_MOST_RUNS]:
            del _shown[old]
            _previews.pop(old, None)
        server = _server()
        if server is not None:
            server.send_sync(MESSAGE, state)


@contextlib.contextmanager
def shown_on_page(node: type, name: str, resume: bool, has_keys: bool = False) -> Iterator[TrainingPage]:
    """The training page of a node's class, which is told how what is done meanwhile ends.

    Raises what was raised meanwhile, SCEditErrors in the words of the node.
    """
    page = TrainingPage(getattr(node.hidden, "unique_id", None), _workflow(node), name, has_keys)
    try:
        yield page
    except comfy.model_management.InterruptProcessingException:
        page.end("stopped", ("stopped" if resume else "stopped_resume_off", {"step": page.step}))
        raise
    except Exception as error:
        if isinstance(error, SCEditError):
            error.args = (on_the_node(str(error), has_keys),)
        page.end("failed", str(error) or type(error).__name__)
        raise


def _workflow(node: type) -> str | None:
    """The id of the workflow that a node's class is run from; programs queue graphs without one, or with anything."""
    info: Any = getattr(node.hidden, "extra_pnginfo", None)  # the host gives it to all output nodes
    for key in ("workflow", "id"):
        info = info.get(key) if isinstance(info, dict) else None
    return info if isinstance(info, str) else None


def _server() -> Any:
    """The host's PromptServer, which is there before packs are loaded; None where a script imports the nodes."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


async def _trainings(_request: web.Request) -> web.Response:
    return web.json_response(list(_shown.values()))


async def _stop(request: web.Request) -> web.Response:
    training = _running.get(request.query.get("name", ""))
    if training is None:
        return web.Response(status=404)
    training.stop_wanted = True
    return web.Response()


async def _preview(request: web.Request) -> web.StreamResponse:
    path = _previews.get(request.query.get("name", ""))
    if path is None or not path.is_file():
        return web.Response(status=404)
    return web.FileResponse(path, headers={"Cache-Control": "no-store"})


def register() -> None:
    """Let the host's server answer; where a script imports the nodes there is none."""
    server = _server()
    if server is not None:
        server.routes.get("/scedit/training")(_trainings)
        server.routes.post("/scedit/training/stop")(_stop)
        server.routes.get("/scedit/training/preview")(_preview)


register()
