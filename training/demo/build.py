"""`python -m training demo-base`: everything in demo/ from nothing but the drawing code."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import torch
import yaml
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0

from ..config_file import load_config
from ..loop import train
from .base import build_scheduler, train_base
from .judge import save_judge, train_judge
from .language import build_tokenizer
from .pictures import write_pictures
from .vae import train_vae

STYLE_IMAGES = 30
CONTROL_IMAGES = 6000


def build_demo(
    work: Path,
    output: Path,
    *,
    vae_minutes: float,
    base_minutes: float,
    judge_minutes: float,
    control_steps: int,
) -> None:
    """Train autoencoder, base, judge and canny tuner, and write them to `output`.  Stages resume from `work`."""
    work.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    vae = train_vae(work, vae_minutes)
    judge = train_judge(work, vae, judge_minutes)
    tokenizer = build_tokenizer(work / "tokenizer")
    unet, text = train_base(work, vae, tokenizer, base_minutes)
    export_base(output, vae, unet, text, tokenizer)
    save_judge(judge, output / "judge.safetensors")
    write_pictures(output / "style", STYLE_IMAGES, seed=11, style="lantern")
    train_control(work, output, control_steps)
    print(f"demo base in {output} after {(time.monotonic() - start) / 60:.0f} minutes", flush=True)


def export_base(output: Path, vae, unet, text, tokenizer) -> None:
    """Write a diffusers pipeline folder in float16."""
    unet.set_attn_processor(AttnProcessor2_0())
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


def train_control(work: Path, output: Path, steps: int) -> None:
    """Train the canny CSC-Tuner with the ordinary trainer, on rendered scenes."""
    pictures = work / "control"
    if not (pictures / f"{CONTROL_IMAGES - 1:05d}.txt").exists():
        write_pictures(pictures, CONTROL_IMAGES, seed=12, style="plain")
    values = yaml.safe_load((Path(__file__).parent / "control.yaml").read_text("utf-8"))
    values["loop"]["steps"] = steps
    values |= {"base": str(output.resolve()), "output": str((work / "canny.safetensors").resolve())}
    values["data"]["folder"] = str(pictures.resolve())
    config = work / "control.yaml"
    config.write_text(json.dumps(values), "utf-8")  # JSON is YAML
    trained = train(load_config(config))
    shutil.copyfile(trained, output / "canny.safetensors")
