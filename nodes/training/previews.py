"""Pictures drawn while a MODEL is trained on, as KSampler draws them with sampler ddim and scheduler sgm_uniform."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.sample
import torch
from PIL import Image
from torch import Tensor

from ...scedit_core import CSCTuner, SCTuner
from ...scedit_core.fitting.base import TextStates
from ...scedit_core.fitting.following import edges_followed
from ...scedit_core.fitting.run_folder import Stopped
from ...scedit_core.pictures.reading import to_tensor
from ...scedit_core.saving import replace_file
from ..host.hints import Hint
from ..host.managed import ManagedTuner
from ..host.patch import SkipPatch, patched
from .picture_set import Picture
from .teacher import HostTeacher

STEPS, GUIDANCE, SEED = 20, 5.0, 1
_SHOWN = 2  # pictures
SAMPLER, SCHEDULER = "ddim", "sgm_uniform"


class HostPreviews:
    """Draws the first of `pictures` with the tuner as it is, and once without it and with its teacher, side by side.

    empty: the states of the negative prompt.  vae: decodes; without one, colours are those of the latents.
    hint_of: gives the hint [1,3,H,W] of a picture as validation has it, None of a style.
    edges: whether hints show edges, which are then looked for in the pictures.
    told:  of the last pictures: how well edges are followed, and seconds of a sampling step, without and with the tuner
           and with the teacher.
    """

    def __init__(
        self,
        model: Any,
        folder: Path,
        pictures: Sequence[Picture],
        empty: TextStates,
        hint_of: Callable[[Picture], Tensor | None],
        vae: Any,
        teacher: HostTeacher | None = None,
        edges: bool = False,
    ) -> None:
        self._model, self._folder, self._vae = model, folder, vae
        self._pictures, self._empty = list(pictures[:_SHOWN]), empty
        self._teacher, self._edges = teacher, edges and vae is not None
        self._hints = [hint_of(picture) for picture in self._pictures]
        self._others: dict[str, list[Image.Image]] | None = None  # columns of what does not change
        self._seconds: dict[str, float] = {}
        self.told: dict[str, float] = {}
        self.latest: Image.Image | None = None
        self.afterwards: Callable[[], None] = lambda: None  # has the model that is trained on loaded again

    def draw(self, step: int, tuner: SCTuner | CSCTuner) -> Path:
        """A sheet: a row for each picture; without the tuner, with its teacher where it has one, with the tuner.

        Raises Stopped where the host is cancelled, OSError where it cannot be written.
        """
        try:
            with torch.inference_mode():
                if self._others is None:
                    others = {"without": None} | ({} if self._teacher is None else {"teacher": self._teacher})
                    self._others = {name: self._column(name, each) for name, each in others.items()}
                columns = self._others | {"with": self._column("with", tuner)}
        except comfy.model_management.InterruptProcessingException:
            raise Stopped("Cancel") from None
        finally:
            self.afterwards()
        self.told = {f"seconds_{name}": seconds for name, seconds in self._seconds.items()}
        if self._edges:
            pictures = {name: [to_tensor(each) for each in column] for name, column in columns.items()}
            self.told |= edges_followed(pictures, [hint[0] for hint in self._hints])
        self.latest = _sheet(list(zip(*columns.values(), strict=True)))
        sheet, path = self.latest, self._folder / f"step-{step:06d}.jpg"
        return replace_file(path, lambda part: sheet.save(part, "JPEG", quality=92))

    def _column(self, name: str, by: SCTuner | CSCTuner | HostTeacher | None) -> list[Image.Image]:
        column = []
        for i in range(len(self._pictures)):
            begun = time.perf_counter()
            latent = self._sample(i, by)
            seconds = (time.perf_counter() - begun) / STEPS
            self._seconds[name] = min(seconds, self._seconds.get(name, seconds))
            column.append(self._shown(latent))
        return column

    def _sample(self, i: int, by: SCTuner | CSCTuner | HostTeacher | None) -> Tensor:
        picture, shown, model, control = self._pictures[i], self._hints[i], self._model, None
        if isinstance(by, HostTeacher):
            control = by.control.copy().set_cond_hint(shown)
        elif by is not None:
            with torch.inference_mode(False):
                held = copy.deepcopy(by).requires_grad_(False)
            managed = ManagedTuner(held, "the tuner in training", "", mapped=False)
            hint = Hint(managed, shown) if isinstance(by, CSCTuner) else None
            model = patched(model, SkipPatch(managed, 1.0, hint=hint))
        return sample(model, picture.text, self._empty, picture.mean.shape, SEED + i, control)

    def _shown(self, latent: Tensor) -> Image.Image:
        if self._vae is not None:
            pixels = self._vae.decode(latent)[0].float().cpu().clamp(0, 1)
        else:
            pixels = _colours(latent, self._model.model.latent_format)
        return Image.fromarray((pixels * 255).round().byte().numpy())


def sample(
    model: Any, text: TextStates, empty: TextStates, shape: Sequence[int], seed: int, control: Any = None
) -> Tensor:
    """The latent [1,4,h,w] that KSampler gives for that seed, with a control as Apply ControlNet puts it."""
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))
    applied = {} if control is None else {"control": control, "control_apply_to_uncond": False}
    positive, negative = (
        [[each.states, applied if each.pooled is None else {"pooled_output": each.pooled, **applied}]]
        for each in (text, empty)
    )
    latent = torch.zeros_like(noise)
    options = {"seed": seed, "disable_pbar": True}
    return comfy.sample.sample(model, noise, STEPS, GUIDANCE, SAMPLER, SCHEDULER, positive, negative, latent, **options)


def _colours(latent: Tensor, form: comfy.latent_formats.LatentFormat) -> Tensor:
    """Roughly what a latent shows, [8h,8w,3] in 0..1."""
    factors = form.latent_rgb_factors
    latent = form.process_in(latent[0].float().cpu()).movedim(0, -1)
    colours = latent[..., :3] if factors is None else latent @ torch.tensor(factors)
    bias = getattr(form, "latent_rgb_factors_bias", None)
    colours = colours if bias is None else colours + torch.tensor(bias)
    return ((colours + 1) / 2).clamp(0, 1).repeat_interleave(8, 0).repeat_interleave(8, 1)


def _sheet(rows: list[tuple[Image.Image, ...]]) -> Image.Image:
    width = max(sum(p.width for p in row) for row in rows)
    sheet = Image.new("RGB", (width, sum(max(p.height for p in row) for row in rows)))
    y = 0
    for row in rows:
        x = 0
        for picture in row:
            sheet.paste(picture, (x, y))
            x += picture.width
        y += max(p.height for p in row)
    return sheet
