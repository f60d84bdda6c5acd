"""The denoiser and text encoder of the embedded base, trained from scratch on the latents of rendered scenes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from .judge import pair_table
from .language import TEXT_WIDTH, build_text_encoder, token_ids
from .pictures import family, rendered
from .scenes import BACKGROUNDS, Scene, mirrored_caption
from .stage import Stage, follow
from .vae import to_model

SCENES = 40_000
CHUNK = 2_000  # scenes drawn and encoded at a time
BATCH = 32
PEAK_LR = 1e-3
CAPTION_DROPOUT = 0.1
AVERAGE_EVERY = 4


def build_unet() -> UNet2DConditionModel:
    """A fresh U-Net for latents [B,4,16,16]: three resolutions, nine skips, cross-attention at 8x8 and 4x4.

    The widths are whole multiples of the first, so that a host's UNetModel can hold the same weights.
    """
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 64, 128),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,  # diffusers' historical name: it is the number of heads
        cross_attention_dim=TEXT_WIDTH,
    )
    unet.set_attn_processor(AttnProcessor())  # on a CPU its backward pass is more than twice as fast as SDPA's
    return unet


def build_scheduler() -> DDIMScheduler:
    """v-prediction with zero terminal SNR: dark pictures stay dark.  Sampled with trailing timesteps."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def encode(vae: AutoencoderTiny, images: np.ndarray, batch: int = 64) -> torch.Tensor:
    """Latents [N,4,H/8,W/8] in bfloat16 of uint8 images [N,H,W,3]."""
    vae = vae.to(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        parts = [vae.encoder(to_model(images[i : i + batch])).bfloat16() for i in range(0, len(images), batch)]
    return torch.cat(parts).contiguous()


def latents_of_scenes(vae: AutoencoderTiny, folder: Path, seed: int) -> tuple[torch.Tensor, list[str], list[Scene]]:
    """Latents, captions and facts of SCENES training scenes of the family, half of them mirrored.

    `folder` keeps them in parts, so that an interrupted run resumes.
    """
    parts, captions, scenes = [], [], []
    for first in range(0, SCENES, CHUNK):
        path = folder / f"latents_{first:06d}.safetensors"
        if not path.exists():
            images, drawn = rendered(CHUNK, seed + first, "family")
            images[::2] = images[::2, :, ::-1].copy()
            part = path.with_suffix(".part")
            save_file({"latents": encode(vae, images)}, part)
            part.replace(path)
            print(f"latents: {first + CHUNK} of {SCENES}", flush=True)
        else:
            drawn = family(CHUNK, seed + first)[0]
        parts.append(load_file(path)["latents"])
        scenes += drawn
        captions += [mirrored_caption(s.caption) if i % 2 == 0 else s.caption for i, s in enumerate(drawn)]
    return torch.cat(parts), captions, scenes


def facts(scenes: list[Scene]) -> torch.Tensor:
    """What captions tell, as 0/1 [N, 36 + 5]: which (shape, colour) pairs are there, which background."""
    backgrounds = [list(BACKGROUNDS).index(s.background) for s in scenes]
    return torch.cat([pair_table(scenes), F.one_hot(torch.tensor(backgrounds), len(BACKGROUNDS))], 1)


def teach_language(encoder: CLIPTextModel, ids: torch.Tensor, told: torch.Tensor, steps: int = 800) -> None:
    """A head start for the text encoder: tell the facts of a scene from each caption's end and mean state."""
    head = torch.nn.Linear(2 * TEXT_WIDTH, told.shape[1])
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    for step in range(steps):
        rows = torch.randint(0, len(ids), (128,))
        states = encoder(ids[rows]).last_hidden_state
        loss = F.binary_cross_entropy_with_logits(head(torch.cat([states[:, -1], states.mean(1)], 1)), told[rows])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 200 == 199:
            print(f"language: step {step + 1}, loss {loss.item():.4f}", flush=True)


def warm_start(both: torch.nn.ModuleDict, tokenizer: CLIPTokenizer, start: Path) -> None:
    """Begin with the weights of an earlier base; words that it did not know begin with random embeddings."""
    unet = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
    both["unet"].load_state_dict(unet.state_dict())
    before = CLIPTextModel.from_pretrained(start / "text_encoder", torch_dtype=torch.float32).state_dict()
    words = CLIPTokenizer.from_pretrained(start / "tokenizer").get_vocab()
    now = both["text"].state_dict()
    for name, weight in before.items():
        if not name.endswith("token_embedding.weight"):
            now[name].copy_(weight)
            continue
        for word, row in tokenizer.get_vocab().items():
            if word in words:
                now[name][row] = weight[words[word]]


def train_base(
    folder: Path, vae: AutoencoderTiny, tokenizer: CLIPTokenizer, steps: int, start: Path | None, seed: int = 2
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Train U-Net and text encoder together for `steps`, resuming from `folder`; returns their running averages.

    start: an earlier demo folder whose weights are the beginning, None to begin from nothing.
    """
    torch.manual_seed(seed)
    both = torch.nn.ModuleDict({"unet": build_unet(), "text": build_text_encoder(tokenizer)}).train()
    average = copy.deepcopy(both).requires_grad_(False)
    groups = [
        {"params": list(both["unet"].parameters()), "peak": PEAK_LR},
        {"params": list(both["text"].parameters()), "peak": PEAK_LR / 5},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    stage = Stage("base", folder, steps, {"both": both, "average": average, "optimizer": optimizer})
    if start and stage.step == 0:
        warm_start(both, tokenizer, start)
        average.load_state_dict(both.state_dict())
    if stage.finished:
        return average["unet"].eval(), average["text"].eval()
    latents, captions, scenes = latents_of_scenes(vae, folder, seed * 1_000_000)
    ids, nothing = token_ids(tokenizer, captions), token_ids(tokenizer, [""])
    if not start and stage.step == 0:
        teach_language(both["text"], ids, facts(scenes))
        average.load_state_dict(both.state_dict())
    alpha_bar = build_scheduler().alphas_cumprod
    generator = torch.Generator().manual_seed(seed * 7919 + stage.step)
    while not stage.finished:
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate(group["peak"])
        rows = torch.randint(0, len(latents), (BATCH,), generator=generator)
        x = latents[rows].float()
        text = ids[rows].clone()
        text[torch.rand(BATCH, generator=generator) < CAPTION_DROPOUT] = nothing
        # one timestep from each of BATCH equal slices: the same density, less variance between steps
        where = (torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) / BATCH
        timesteps = (where * len(alpha_bar)).long()
        a = alpha_bar[timesteps][:, None, None, None]
        noise = torch.randn(x.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            states = both["text"](text).last_hidden_state
            v = both["unet"](a.sqrt() * x + (1 - a).sqrt() * noise, timesteps, states).sample
        loss = F.mse_loss(v.float(), a.sqrt() * noise - (1 - a).sqrt() * x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if stage.step % AVERAGE_EVERY == 0:
            follow(average, both, stage.step, AVERAGE_EVERY, 0.9985)
        stage.tick(loss.item())
    return average["unet"].eval(), average["text"].eval()
