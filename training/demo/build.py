"""`python -m training demo-base`: everything in demo/, from the drawing code alone or from an earlier base."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
import yaml
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0

from scedit_core import inspect_tuner, load_tuner, save_tuner
from scedit_core.errors import TrainingError

from ..config_file import load_config
from ..loop import train
from .base import build_scheduler, train_base
from .judge import save_judge, train_judge
from .language import build_tokenizer
from .pictures import write_control_pictures, write_pictures
from .vae import train_vae

STYLE_IMAGES = 30
STYLE_SEEDS = {"lantern": 11, "blueprint": 21, "watercolour": 31}
TRAINED, SHIPPED = "lantern", "blueprint"  # the styles of the contact sheet: one is trained while one waits
CONTROL_IMAGES = 4000
STYLE_YAML = Path(__file__).parents[2] / "demo" / "style.yaml"


@dataclass(frozen=True)
class Steps:
    """How long each stage is trained."""

    vae: int = 1800
    decoder: int = 6000
    judge: int = 900
    base: int = 7000
    control: int = 2400


def build_demo(work: Path, output: Path, steps: Steps, start: Path | None = None) -> None:
    """Train autoencoder, judge, base, canny tuner and shipped style, and write them to `output`.

    Every stage resumes from `work`.  start: an earlier demo folder whose weights each stage begins with.
    """
    work.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)  # the pictures are too small for more
    began = time.monotonic()
    vae = train_vae(work, steps.vae, steps.decoder, start and start / "vae")
    judge = train_judge(work, vae, steps.judge, start and start / "judge.safetensors")
    tokenizer = build_tokenizer(work / "tokenizer")
    unet, text = train_base(work, vae, tokenizer, steps.base, start)
    output.mkdir(parents=True, exist_ok=True)
    export_base(output, vae, unet, text, tokenizer)
    save_judge(judge, output / "judge.safetensors")
    if output.resolve() != STYLE_YAML.parent:
        shutil.copyfile(STYLE_YAML, output / STYLE_YAML.name)
    write_pictures(output / "style", STYLE_IMAGES, STYLE_SEEDS[TRAINED], TRAINED)
    train_control(work, output, steps.control, start and start / "canny.safetensors")
    ship(train_style(output, work, SHIPPED), output / f"{SHIPPED}.safetensors")
    print(f"demo base in {output} after {(time.monotonic() - began) / 60:.0f} minutes", flush=True)


def train_style(base: Path, work: Path, style: str, steps: int | None = None, seed: int = 0) -> Path:
    """Train an SC-Tuner on the pictures of a style with the ordinary trainer; returns its file in `work`."""
    pictures = work / style
    if not (pictures / f"{STYLE_IMAGES - 1:05d}.txt").exists():
        write_pictures(pictures, STYLE_IMAGES, STYLE_SEEDS[style], style)
    values = yaml.safe_load(STYLE_YAML.read_text("utf-8"))
    values["loop"] |= {"seed": seed} | ({"steps": steps} if steps else {})
    values["title"] = f"{style.capitalize()} style for the embedded demo base"
    return _trained(base, work / f"{style}_{seed}", pictures, values)


def train_control(work: Path, output: Path, steps: int, start: Path | None = None) -> None:
    """Train the canny CSC-Tuner with the ordinary trainer, on pictures and hints of `write_control_pictures`."""
    pictures, hints = work / "control", work / "control_hints"
    if not (hints / f"{CONTROL_IMAGES - 1:05d}.png").exists():
        write_control_pictures(pictures, hints, CONTROL_IMAGES, seed=212)
    values = yaml.safe_load((Path(__file__).parent / "control.yaml").read_text("utf-8"))
    values["loop"]["steps"] = steps
    values["data"]["hints"] = str(hints.resolve())
    if start:
        values["tuner"] = {"kind": "csc", "start_from": str(start.resolve())}
    ship(_trained(output, work / "canny", pictures, values), output / "canny.safetensors")


def ship(tuner: Path, place: Path) -> None:
    """Write a trained tuner in float16, with what its file says of it."""
    save_tuner(load_tuner(tuner).half(), place, inspect_tuner(tuner)["metadata"])


def _trained(base: Path, name: Path, pictures: Path, values: dict) -> Path:
    """Run the trainer on `values` with these places filled in, resuming; returns the tuner, `name`.safetensors."""
    tuner = name.with_suffix(".safetensors")
    values = values | {"base": str(base.resolve()), "output": str(tuner.resolve())}
    values["data"]["folder"] = str(pictures.resolve())
    config = name.with_suffix(".yaml")
    config.write_text(json.dumps(values), "utf-8")  # JSON is YAML
    done = train(load_config(config))
    if done is None:
        raise TrainingError(f"{tuner.name}: expected to train to the end, found a wish to stop; start it again")
    return done


def export_base(output: Path, vae, unet, text, tokenizer) -> None:
    """Write a diffusers pipeline folder in float16."""
    unet.set_attn_processor(AttnProcessor2_0())
    for model in (vae, unet):  # diffusers would write where its weights came from
        model.register_to_config(_name_or_path=None)
    pipeline = StableDiffusionPipeline(
        vae=vae.to(memory_format=torch.contiguous_format),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(output, safe_serialization=True)
