"""Previews: the same noise drawn again as the training goes on, with and without the tuner.

previews/step-000250.jpg   a row for each prompt: its hint, without the tuner, with it
previews/grid.jpg          a column for each prompt; rows: hint, without the tuner, step 250, step 500, ...
previews/pictures/         each picture by itself, in full size
previews/found/            of a control: its condition, found again in each of them
previews/trained.jpg       some of the pictures that it is trained on
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from scedit_core import CSCTuner, SCTuner
from scedit_core.conditions.fitting import fit_hint
from scedit_core.errors import ConditionError, DataError
from scedit_core.fitting.chance import generator_for
from scedit_core.fitting.following import edges_followed, shows_edges
from scedit_core.pictures.reading import read_picture, to_picture, to_tensor

from ..bases.base_model import BaseModel, TextStates
from ..bases.teacher import Teacher
from ..config import TrainConfig
from ..data.hint_making import Hints
from .sampling import preview_scheduler, sample, starting_noise
from .sheets import draw_sheet, save_picture, scaled_size

if TYPE_CHECKING:
    from ..data.training_set import TrainingSet

_CELL, _GRID_CELL, _GRID_ROWS = 512, 256, 12
_HINT, _WITHOUT, _TEACHER = "hint", "without", "teacher"
_TRAINED = 6  # pictures


@dataclass
class Scene:
    """One picture that is drawn again and again.

    hint: [1,3,height,width] in 0..1 for a control, else None.
    text: two rows, of the negative prompt and of the prompt.
    """

    prompt: str
    hint: Tensor | None
    height: int
    width: int
    text: TextStates | None = None


class Previews:
    """Draws previews into `previews/` of the run folder.

    Prompts and hints are those of the configuration, else the first of `data.held`.

    told: of the last pictures: how well edges are followed, and seconds of a sampling step, without and with the tuner
          and with the teacher.
    """

    def __init__(self, config: TrainConfig, base: BaseModel, data: TrainingSet, teacher: Teacher | None = None) -> None:
        self._config, self._base, self._teacher = config.previews, base, teacher
        self._fresh = config.tuner.start_from is None
        self.folder = config.run_folder / "previews"
        self._scheduler = preview_scheduler(base, config.objective)
        self.scenes = scenes_of(config, data)
        hints = None if config.data.condition is None else Hints(config.data, base.device)
        self._fitting = hints and hints.fitting
        made = hints is not None and config.data.hints is None and config.data.condition.type != "custom"
        self._hints = hints if made and not hints.per_step else None
        self.found_again: float | None = None  # how far the condition of the last pictures is from the hints, 0..1
        trained = (example for example in data.examples if not data.unseen or example not in data.held)
        self._examples = list(itertools.islice(trained, _TRAINED))
        with contextlib.ExitStack() as stack:
            for encoder in (base.pipeline.text_encoder, getattr(base.pipeline, "text_encoder_2", None)):
                if encoder is not None:
                    stack.enter_context(_on_device(encoder, base.device))
            for scene in self.scenes:
                scene.text = base.encode_captions([self._config.negative, scene.prompt]).to("cpu")
        self._told = self._settings(config)
        self._edges = shows_edges(config.data.condition)
        self._seconds: dict[str, float] = {}
        self.told: dict[str, float] = {}

    def draw(self, step: int, tuner: SCTuner | CSCTuner) -> Path:
        """Draw every scene with the tuner as it is, and return the sheet of this step.

        Raises torch.OutOfMemoryError where there is no room beside what training holds, OSError where pictures cannot
        be written.
        """
        self._forget_others()
        self._forget_after(step)
        latents: dict[tuple[int, str], Tensor] = {}
        untouched = step == 0 and self._fresh  # which is the base itself, bit for bit
        for i, scene in enumerate(self.scenes):
            if scene.hint is not None and not self._file(_HINT, i).exists():
                save_picture(to_picture(scene.hint[0]), self._file(_HINT, i))
            if not self._file(_WITHOUT, i).exists():
                latents[i, _WITHOUT] = self._sample(i, None)
            if self._teacher is not None and not self._file(_TEACHER, i).exists():
                latents[i, _TEACHER] = self._sample(i, None, self._teacher)
            if not untouched:
                latents[i, _row(step)] = self._sample(i, tuner)
        with _on_device(self._base.vae, self._base.device):
            for (i, row), each in latents.items():
                save_picture(to_picture(decode(self._base, each)[0]), self._file(row, i))
        for i in range(len(self.scenes) if untouched else 0):
            shutil.copyfile(self._file(_WITHOUT, i), self._file(_row(step), i))
        self._find_again(step)
        self.told = {f"seconds_{name}": seconds for name, seconds in self._seconds.items()}
        if self._edges:
            self.told |= self._followed(step)
        self._draw_trained()
        self._draw_grid()
        return self._draw_step(step)

    def _followed(self, step: int) -> dict[str, float]:
        """How well the edges of the hints are found again in the pictures."""
        names = {"without": _WITHOUT, "with": _row(step)} | ({} if self._teacher is None else {"teacher": _TEACHER})
        pictures = {
            name: [to_tensor(Image.open(self._file(row, i))) for i in range(len(self.scenes))]
            for name, row in names.items()
        }
        return edges_followed(pictures, [to_tensor(Image.open(self._file(_HINT, i))) for i in range(len(self.scenes))])

    def _find_again(self, step: int) -> None:
        """Make the condition of the pictures of this step, where it is made of pictures, and see how near it is."""
        self.found_again = None
        if self._hints is None:
            return
        apart = []
        try:
            for i, scene in enumerate(self.scenes):
                picture = to_tensor(Image.open(self._file(_row(step), i)))
                found = self._hints.make(picture)[None].float()
                apart.append((found - scene.hint.float().cpu()).abs().mean().item())
                save_picture(to_picture(found[0]), self._found(step, i))
            self.found_again = sum(apart) / len(apart)
        except ConditionError:  # hints may be in the cache, and their detector gone
            self._hints = None
            return
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        self._hints.release()

    def _found(self, step: int, i: int) -> Path:
        return self.folder / "found" / f"{_row(step)}-{i}.jpg"

    def _draw_trained(self) -> None:
        """A strip of training pictures, once."""
        path, cell = self.folder / "trained.jpg", _cell(self.scenes, _GRID_CELL)
        if path.exists():
            return
        shown = []
        for example in self._examples:
            with contextlib.suppress(DataError, OSError):  # in shards they are no files
                shown.append((example.caption, example.framing.apply(read_picture(example.path, example.path))))
        if shown:
            captions = [caption for caption, _ in shown]
            draw_sheet(path, captions, [("trained on", [picture for _, picture in shown])], cell)

    def _sample(self, i: int, tuner: SCTuner | CSCTuner | None, teacher: Teacher | None = None) -> Tensor:
        scene, wanted, base = self.scenes[i], self._config, self._base
        name = "with" if tuner is not None else "without" if teacher is None else "teacher"
        begun = time.perf_counter()
        noise, how = starting_noise(scene.height, scene.width, wanted.seed + i), (wanted.steps, wanted.guidance)
        made = sample(base, self._scheduler, scene.text, noise, *how, tuner, scene.hint, teacher).cpu()
        seconds = (time.perf_counter() - begun) / wanted.steps
        self._seconds[name] = min(seconds, self._seconds.get(name, seconds))
        return made

    def _file(self, row: str, i: int) -> Path:
        return self.folder / "pictures" / f"{row}-{i}.jpg"

    def _fixed_rows(self) -> list[tuple[str, str]]:
        """Rows of a sheet that do not change with the step: file name and title."""
        rows = [(_HINT, "hint")] if self.scenes[0].hint is not None else []
        rows.append((_WITHOUT, "without the tuner"))
        return rows if self._teacher is None else [*rows, (_TEACHER, "the ControlNet")]

    def _draw_step(self, step: int) -> Path:
        rows = [*self._fixed_rows(), (_row(step), f"with it, step {step}")]
        cell = _cell(self.scenes, _CELL)
        pictures = [(s.prompt, [self._shown(r, i, cell) for r, _ in rows]) for i, s in enumerate(self.scenes)]
        if self.found_again is not None:
            rows.append(("", "the condition, found again in it"))
            for i, (_, shown) in enumerate(pictures):
                shown.append(_opened(self._found(step, i)))
        path = self.folder / f"{_row(step)}.jpg"
        return draw_sheet(path, [title for _, title in rows], pictures, cell)

    def _draw_grid(self) -> Path:
        steps = sorted({p.stem.rsplit("-", 1)[0] for p in (self.folder / "pictures").glob("step-*.jpg")})
        rows = self._fixed_rows()
        rows += [(step, f"step {int(step.removeprefix('step-'))}") for step in _spread(steps, _GRID_ROWS)]
        cell, indices = _cell(self.scenes, _GRID_CELL), range(len(self.scenes))
        pictures = [(title, [self._shown(row, i, cell) for i in indices]) for row, title in rows]
        prompts = [scene.prompt for scene in self.scenes]
        return draw_sheet(self.folder / "grid.jpg", prompts, pictures, cell)

    def _shown(self, row: str, i: int, cell: int) -> Image.Image | None:
        """A picture for a sheet; a hint as it is, at the size that it has there."""
        if row != _HINT:
            return _opened(self._file(row, i))
        scene = self.scenes[i]
        width, height = scaled_size((scene.width, scene.height), cell)
        return to_picture(fit_hint(scene.hint, height, width, self._fitting)[0])

    def _forget_after(self, step: int) -> None:
        """Remove the pictures of later steps, which a run that begins again has not come to."""
        for path in self.folder.glob("*/step-*.jpg"):
            if path.name[: len(_row(step))] > _row(step):
                path.unlink(missing_ok=True)

    def _forget_others(self) -> None:
        """Remove the pictures of other prompts, seeds or bases: a grid compares what differs in the step alone."""
        file = self.folder / "pictures" / "settings.json"
        if file.is_file() and file.read_text("utf-8") == self._told:
            return
        for kept in (file.parent, self.folder / "found"):
            shutil.rmtree(kept, ignore_errors=True)
        (self.folder / "trained.jpg").unlink(missing_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self._told, "utf-8")

    def _settings(self, config: TrainConfig) -> str:
        """What all pictures of a grid have in common."""
        condition = config.data.condition and config.data.condition.model_dump(mode="json")
        settings = {
            "base": [self._base.name, self._base.vae_fingerprint, self._base.text_fingerprint],
            "previews": self._config.model_dump(mode="json"),
            "condition": condition,
            "scenes": [[s.prompt, s.height, s.width, _digest(s.hint)] for s in self.scenes],
        }
        if self._teacher is not None:
            settings["teacher"] = [self._teacher.digest, self._teacher.kind, self._teacher.strength]
        return json.dumps(settings, indent=1, ensure_ascii=False)


def scenes_of(config: TrainConfig, data: TrainingSet) -> list[Scene]:
    """What is drawn: prompts and hints of the configuration where it has them, else the first of the set."""
    wanted, control = config.previews, config.data.condition is not None
    side = config.data.resolution
    if wanted.prompts and not control:
        return [Scene(prompt, None, side, side) for prompt in wanted.prompts]
    if wanted.hints:
        prompts, hints = wanted.prompts or [config.data.caption], hints_of(config, data)
        count = max(len(prompts), len(hints))
        paired = [(prompts[i % len(prompts)], hints[i % len(hints)]) for i in range(count)]
        return [Scene(prompt, hint, *hint.shape[-2:]) for prompt, hint in paired]
    others = (example for example in data.examples if example not in data.held)
    count = len(wanted.prompts) or wanted.count
    scenes = []
    for i, example in enumerate(itertools.islice(itertools.chain(data.held, others), count)):
        batch = data.batch_of([example])
        height, width = (8 * length for length in batch.latents.shape[-2:])
        prompt = wanted.prompts[i] if wanted.prompts else example.caption
        scenes.append(Scene(prompt, batch.hints if control else None, height, width))
    return scenes


def hints_of(config: TrainConfig, data: TrainingSet) -> list[Tensor]:
    """The files of `previews.hints` as [1,3,H,W] in 0..1, by the way of the training's own: made from pictures as the
    condition says, or ready where `data.hints` are.

    Raises DataError for a file that is no picture, ConditionError where a detector is missing.
    """
    makes = Hints(config.data, data.base.device)
    if config.data.has_hints or config.data.condition.type == "custom":
        return [data.framed(path, makes.fitting)[None] for path in config.previews.hints]
    made = [makes.make(data.framed(path)) for path in config.previews.hints]
    made = [makes.for_step(each, generator_for(config.previews.seed, i, "preview")) for i, each in enumerate(made)]
    makes.release()
    return [each[None].float() for each in made]


def decode(base: BaseModel, latents: Tensor) -> Tensor:
    """A picture [1,3,H,W] in 0..1 of latents [1,4,h,w]; in tiles where there is no room for the whole."""
    vae = base.vae
    try:
        return base.decode(latents)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        vae.enable_tiling()
        try:
            return base.decode(latents)
        finally:
            vae.disable_tiling()


@contextlib.contextmanager
def _on_device(part: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """A part of the base on `device` while the context is open, then where it was."""
    before = next(part.parameters()).device
    part.to(device)
    try:
        yield
    finally:
        part.to(before)


def _opened(path: Path) -> Image.Image | None:
    return Image.open(path) if path.is_file() else None


def _digest(hint: Tensor | None) -> str | None:
    return None if hint is None else hashlib.blake2b(hint.cpu().numpy().tobytes(), digest_size=8).hexdigest()


def _row(step: int) -> str:
    return f"step-{step:06d}"


def _cell(scenes: list[Scene], most: int) -> int:
    return min(most, max(max(s.height, s.width) for s in scenes) * 2)


def _spread(steps: list[str], most: int) -> list[str]:
    """At most `most` of them, evenly, with the first and the last."""
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]
