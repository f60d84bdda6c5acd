"""What is taught and how it is marked, for benchmarks/quality.py: a style from thirty pictures, and edges."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.methods import Method
from scedit_core.fitting.chance import generator_for
from scedit_core.fitting.following import edge_f1
from scedit_core.fitting.objective import Objective, loss_of
from training.bases.base_model import BaseModel
from training.demo.build import STYLE_IMAGES, STYLE_SEEDS
from training.demo.judge import judge_pictures
from training.demo.measure import SEED, drawn, edges_of, held_out_scenes
from training.demo.pictures import clutter, rendered
from training.demo.sampling import BATCH, GUIDANCE, STEPS

CONTROL_PICTURES = 4000
# Guidance and its rescaling.  Strong guidance undoes part of a style, and changes nothing about a control.
WEAK, STRONG = (GUIDANCE, 0.0), (4.0, 0.5)


@dataclass
class Lessons:
    """Encoded pictures: latents [N,4,h,w], text states [N,L,D], hints [N,3,8h,8w] as bytes or None."""

    latents: Tensor
    states: Tensor
    hints: Tensor | None
    no_caption: Tensor

    def batch(self, step: int, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Latents, states and hints of one step, a tenth of them without their caption."""
        draw = generator_for(seed, step, "lesson")
        rows = torch.randint(0, len(self.latents), (size,), generator=draw)
        silent = torch.rand(size, generator=draw) < 0.1
        states = torch.where(silent[:, None, None], self.no_caption, self.states[rows])
        return self.latents[rows], states, None if self.hints is None else self.hints[rows].float() / 255


def style_lessons(base: BaseModel, style: str) -> Lessons:
    """Thirty pictures of a style; of the lanterns, those of `make demo`."""
    images, scenes = rendered(STYLE_IMAGES, STYLE_SEEDS[style], style)
    return _encoded(base, torch.from_numpy(images), [s.caption for s in scenes], with_hints=False)


def control_lessons(base: BaseModel, cache: Path, drawings: bool = False) -> Lessons:
    """Rendered scenes, or random drawings without captions, with their canny edges; encoded once into `cache`."""
    if not cache.exists():
        if drawings:
            images, captions = clutter(CONTROL_PICTURES, seed=13), [""] * CONTROL_PICTURES
        else:
            images, scenes = rendered(CONTROL_PICTURES, seed=12, style="plain")
            captions = [s.caption for s in scenes]
        made = _encoded(base, torch.from_numpy(images), captions, with_hints=True)
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in vars(made).items()}, cache)
    return Lessons(**load_file(cache))


def _encoded(base: BaseModel, images: Tensor, captions: list[str], with_hints: bool) -> Lessons:
    latents, hints = [], []
    with torch.no_grad():
        for part in images.split(64):
            pixels = part.permute(0, 3, 1, 2).float() / 255
            latents.append(base.encode_images(pixels * 2 - 1).float().cpu())
            if with_hints:
                hints.append((edges_of(pixels) * 255).round().to(torch.uint8))
        states = [base.encode_captions(captions[i : i + 64]).states.float().cpu() for i in range(0, len(captions), 64)]
        silence = base.encode_captions([""]).states.float().cpu()
    return Lessons(torch.cat(latents), torch.cat(states), torch.cat(hints) if hints else None, silence)


def teach(
    base: BaseModel, method: Method, objective: Objective, lessons: Lessons, steps: range, batch: int, rate: float,
    optimizer: torch.optim.Optimizer, seed: int, warmup: int = 50,
) -> float:  # fmt: skip
    """Train for `steps`, at a constant rate after the warm-up.  Returns the mean loss of these steps."""
    device, total = base.unet.device, 0.0
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / warmup)
        latents, states, hints = lessons.batch(step, batch, seed)
        problem = objective.pose(latents.to(device), seed, step)
        with torch.autocast(device.type, torch.bfloat16):
            hints = None if hints is None else hints.to(device)
            inputs = _inputs(problem.noisy, problem.timesteps, states.to(device))
            lesson = next((each for until, each in method.lessons if step < until), None)
            loss = lesson(inputs, hints) if lesson else loss_of(method.forward(inputs, hints), problem)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.item()
    return total / max(len(steps), 1)


def _inputs(noisy: Tensor, timesteps: Tensor, states: Tensor) -> dict[str, Tensor]:
    return {"sample": noisy, "timestep": timesteps, "encoder_hidden_states": states}


def paint(
    base: BaseModel, method: Method, prompts: list[str], seed: int, hints: Tensor | None, guidance: tuple[float, float]
) -> Tensor:
    """Pictures [N,3,128,128] in 0..1; the i-th has the noise of `seed` + i, whatever the method."""
    device, scheduler, made = base.unet.device, base.scheduler, []
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        nothing = base.encode_captions([""]).states.to(device)
        for first in range(0, len(prompts), BATCH):
            part = prompts[first : first + BATCH]
            states = base.encode_captions(part).states.to(device)
            both = torch.cat([nothing.expand_as(states), states])
            hint = None if hints is None else hints[first : first + len(part)].to(device).repeat(2, 1, 1, 1)
            noise = [
                torch.randn(4, 16, 16, generator=generator_for(seed + first + i, 0, "noise")) for i in range(len(part))
            ]
            latents = torch.stack(noise).to(device)
            scheduler.set_timesteps(STEPS, device=device)
            with method.sampling(hint):
                for t in scheduler.timesteps:
                    noisy = scheduler.scale_model_input(latents, t).repeat(2, 1, 1, 1)
                    without, text = method.forward(_inputs(noisy, t, both), hint).float().chunk(2)
                    guided = rescale_noise_cfg(without + guidance[0] * (text - without), text, guidance[1])
                    latents = scheduler.step(guided, t, latents).prev_sample
            made.append(base.decode(latents).float().cpu())
    return torch.cat(made)


def mark_style(style: str, base: BaseModel, judge, method: Method, count: int) -> dict[str, float]:
    """Share of pictures in the style, prompt agreement, and how much four pictures of one prompt differ (RMS)."""
    scenes = held_out_scenes(count)
    prompts = [s.caption for s in scenes]
    pictures = paint(base, method, prompts, SEED, None, WEAK)
    verdict = judge_pictures(judge, pictures, scenes)
    few = max(count // 6, 1)
    again = torch.stack(
        [pictures[:few], *(paint(base, method, prompts[:few], SEED + 1000 * k, None, WEAK) for k in range(1, 4))]
    )
    apart = [(again[i] - again[j]).square().mean((1, 2, 3)).sqrt().mean() for i in range(4) for j in range(i)]
    return {
        "style": verdict.styles[style],
        "agreement": verdict.agreement,
        "diversity": torch.stack(apart).mean().item(),
    }


def mark_control(base: BaseModel, judge, method: Method, count: int) -> dict[str, float]:
    """F1 of the pictures' edges against the hints, and prompt agreement."""
    scenes = held_out_scenes(count)
    hints = edges_of(drawn(scenes))
    pictures = paint(base, method, [s.caption for s in scenes], SEED, hints, STRONG)
    return {"edge_f1": edge_f1(pictures, hints), "agreement": judge_pictures(judge, pictures, scenes).agreement}
