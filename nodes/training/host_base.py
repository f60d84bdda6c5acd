"""A MODEL of the graph as the frozen base that training asks (scedit_core/fitting/base.py)."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import comfy.model_management
import comfy.model_sampling
import torch
from torch import Tensor

from ...scedit_core import CSCTuner, SCEditError
from ...scedit_core.editing import Edit, edit_skip
from ...scedit_core.fitting.base import Added, Attached, TextStates, stacked
from ...scedit_core.fitting.machine import DTYPES
from ...scedit_core.folding import FoldedEdits, edit_folded
from ..host.patch import SkipPatch, begin, layout_of
from ..host.run import Picture
from .frozen_layers import attention, trained_through

_NO_SIGNAL = 1e-6  # alpha_bar
_LOOKED = 64  # values of each weight that tell a model from others


class HostBase:
    """See FrozenBase.

    model:         the MODEL, with whatever is applied to it; a clone of it is what runs.
    precision:     auto (as the host computes in), fp32, bf16 or fp16.
    checkpointing: whether decoder blocks are computed again in the backward pass.
    encode:        what encodes a caption, None where no CLIP is connected.

    taken_off: what was applied to the model and cannot be trained through, in words.
    beside:    other models that are loaded with it, such as a teacher's.

    Raises LayoutError for a model without output blocks, SCEditError for one that predicts something else than noise
    or velocity.
    """

    def __init__(
        self, model: Any, precision: str, checkpointing: bool, encode: Callable[[str], TextStates] | None
    ) -> None:
        self.model, self.taken_off = _trainable(model)
        self.layout = layout_of(self.model.model)
        self.name = type(self.model.model).__name__
        self.prediction = _prediction(self.model, self.name)
        inner = self.model.model
        own = inner.manual_cast_dtype or inner.get_dtype()
        self.compute_dtype = own if precision == "auto" else DTYPES[precision]
        if self.compute_dtype not in DTYPES.values():  # stored in 8 bits, and a host that does not say what it casts to
            self.compute_dtype = torch.float32
        self._cast = self.compute_dtype != own
        self._checkpointing, self._encode = checkpointing, encode
        self._others: list[SkipPatch] = [
            p for p in _patches(self.model).get("output_block_patch", ()) if isinstance(p, SkipPatch)
        ]
        self._empty: TextStates | None = None
        self._memory = 0.0
        self.beside: list[Any] = []

    @property
    def _sampling(self) -> Any:
        return self.model.get_model_object("model_sampling")

    @property
    def alphas_cumprod(self) -> Tensor:
        """[T] of the model's noise schedule, which may have been changed by a node."""
        sigmas = self._sampling.sigmas.detach().cpu().double()
        kept = 1 / (sigmas.square() + 1)
        if kept[-1] < _NO_SIGNAL:  # ComfyUI keeps a little in place of zero; those before it are meant
            kept[-1] = 0
        return kept.float()

    @property
    def needs_sizes(self) -> bool:
        """Whether the U-Net is told picture sizes and crops (SDXL)."""
        return self.layout.family == "sdxl" or self.model.model.diffusion_model.num_classes is not None

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.model.model.latent_format.latent_channels

    @property
    def unet_device(self) -> torch.device:
        """Where the U-Net works."""
        return self.model.load_device

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the model, what it predicts, and LoRA and tuners in effect."""
        digest = hashlib.blake2b(f"{self.name} {self.prediction}".encode(), digest_size=8)
        for key, parts in sorted(self.model.get_key_patches("diffusion_model.").items()):
            digest.update(key.encode())
            for part in parts:
                look_at(part, digest)
        for patch in self._others:
            look_at(list(patch.tuner.tuner.state_dict().values()), digest)
            settings = patch.weights(), patch.percents, patch.call, patch.hint and patch.hint.mode, patch.shown()
            digest.update(str(settings).encode())
        return digest.hexdigest()

    def load(self) -> None:
        """Have the host load the model, or load it again after something else."""
        with torch.inference_mode():  # in which the weights of running tuners are made
            others = [each for patch in self._others for each in patch.models()]
        comfy.model_management.load_models_gpu([self.model, *others, *self.beside], memory_required=self._memory)

    @contextlib.contextmanager
    def loaded(self, memory_required: float = 0) -> Iterator[None]:
        """While open, the model is loaded, and layers can be trained through.

        memory_required: bytes that are wanted beside the weights.
        """
        unet = self.model.model.diffusion_model
        self._memory = memory_required
        self.load()
        if self._others:
            begin(self._others[0].run, self.model)
        self.model.model.requires_grad_(False)
        try:
            with trained_through(unet, self._checkpointing, self._cast):
                yield
        finally:
            if self._others:
                self._others[0].run.end()

    def encode_captions(self, captions: Sequence[str]) -> TextStates:
        """See FrozenBase; without a CLIP only the empty caption is known: states of zeros like those of the set."""
        if self._empty is not None and not any(captions):
            return self._empty.rows([0] * len(captions))
        if self._encode is None:
            raise SCEditError("clip: expected a CLIP that encodes captions, found none; connect it")
        return stacked([self._encode(caption) for caption in captions])

    def know_empty(self, like: TextStates) -> None:
        """What the empty caption is: its states where a CLIP is connected, else zeros like those of a picture."""
        if self._encode is None:
            pooled = None if like.pooled is None else torch.zeros_like(like.pooled[:1])
            like = TextStates(torch.zeros_like(like.states[:1]), pooled)
        self._empty = like

    def skips(self, noisy: Tensor, timesteps: Tensor, text: TextStates, sizes: Tensor | None) -> list[Tensor]:
        """See FrozenBase; to be called while `loaded`."""
        collected = _Encoder(len(self.layout))
        with torch.no_grad(), contextlib.suppress(_AllSkips):
            self._forward(noisy, timesteps, text, sizes, {"input_block_patch_after_skip": [collected]}, None)
        return collected.skips[::-1]

    def rest_decoder(self) -> None:
        """See FrozenBase; what of the MODEL lies where is ComfyUI's to say."""

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: TextStates,
        sizes: Tensor | None,
        edits: Sequence[Attached] = (),
        added: Added | None = None,
        apart: bool = False,
    ) -> Tensor:
        """See FrozenBase; to be called while `loaded`."""
        skips = _Skips(self._attached(edits), self._others, apart)
        control = None
        if added is not None:  # of which the U-Net takes the last for its deepest skip
            control = {"input": [], "middle": [added.middle], "output": list(added.skips[::-1])}
        return self._forward(noisy, timesteps, text, sizes, {"output_block_patch": [skips]}, control)

    def sigmas(self, timesteps: Tensor) -> Tensor:
        """The noise level [B] of timesteps [B], where the U-Net works."""
        return self._sampling.sigma(timesteps.float().to(self._sampling.sigmas.device)).to(self.unet_device)

    def _forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: TextStates,
        sizes: Tensor | None,
        patches: dict[str, list],
        control: dict[str, list] | None,
    ) -> Tensor:
        inner, device, dtype = self.model.model, self.unet_device, self.compute_dtype
        noisy, timesteps = noisy.to(device), timesteps.to(device).expand(len(noisy))
        conditions = self.conditions(noisy, text, sizes)
        seen = [noisy, *conditions.pop("c_concat", [])]
        options = {
            "patches": patches,
            "optimized_attention_override": attention,
            "cond_or_uncond": [0],
            "sigmas": self.sigmas(timesteps),
            "uuids": [],
        }
        context = conditions.pop("c_crossattn").to(device, dtype)
        others = {name: value.to(device, dtype) for name, value in conditions.items()}
        seen = torch.cat([each.to(device, dtype) for each in seen], 1)
        return inner.diffusion_model(
            seen, timesteps.float(), context=context, control=control, transformer_options=options, **others
        )

    def conditions(self, noisy: Tensor, text: TextStates, sizes: Tensor | None) -> dict[str, Any]:
        """What the model's own `extra_conds` make of text, sizes and noisy latents, row by row."""
        rows: dict[str, list[Tensor]] = {}
        for i in range(len(noisy)):
            given: dict[str, Any] = {"cross_attn": text.states[i : i + 1], "noise": noisy[i : i + 1]}
            given["latent_image"] = torch.zeros_like(noisy[i : i + 1])  # of models that paint into a picture
            if text.pooled is not None:
                given["pooled_output"] = text.pooled[i : i + 1]
            if sizes is not None:
                names = ("height", "width", "crop_h", "crop_w", "target_height", "target_width")
                given |= dict(zip(names, sizes[i].tolist(), strict=True))
            for name, made in self.model.model.extra_conds(device=noisy.device, **given).items():
                rows.setdefault(name, []).append(made.cond)
        whole = {name: torch.cat(parts) for name, parts in rows.items() if isinstance(parts[0], Tensor)}
        if "c_concat" in whole:
            whole["c_concat"] = [whole["c_concat"]]
        return whole

    def _attached(self, edits: Sequence[Attached]) -> list[Edit]:
        made = []
        for tuner, strength, hint in edits:
            if next(tuner.parameters()).device != self.unet_device:
                tuner.to(self.unet_device)
            features = None
            if isinstance(tuner, CSCTuner):
                features = tuner.encode_hint(hint.to(self.unet_device, self.compute_dtype))
            made.append(Edit(tuner, strength, hint_features=features))
        return made


class _AllSkips(Exception):
    """The encoder is through."""


class _Encoder:
    """Called by the host after each input block: keeps its skip, and leaves the forward after the last."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.skips: list[Tensor] = []

    def __call__(self, h: Tensor, _options: dict[str, Any]) -> Tensor:
        self.skips.append(h)
        if len(self.skips) == self._count:
            raise _AllSkips
        return h

    def to(self, _where: Any) -> _Encoder:
        """All follows the skips."""
        return self


class _Skips:
    """Called by the host at each output block: the edits of the tuners in training and of those in effect, one sum."""

    def __init__(self, edits: list[Edit], others: list[SkipPatch], apart: bool = False) -> None:
        self._edits, self._others, self._apart = edits, others, apart
        self._frozen: list[list[FoldedEdits]] = [[]]  # those of the tuners in effect, of all rows or of each

    def __call__(self, h: Tensor, skip: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
        b = options["block"][1]
        if skip.requires_grad or (b == 0 and h.requires_grad):
            raise RuntimeError(
                "training step: expected no graph before the decoder, found one; report this with your workflow"
            )
        if b == 0 and self._others:
            self._fold(skip, options)
        if not self._apart:
            return h, self._edited(b, skip, self._edits)
        if b == 0:
            h = h.repeat(len(self._edits), 1, 1, 1)
        return h, torch.cat([self._edited(b, skip, [edit]) for edit in self._edits])

    def _fold(self, skip: Tensor, options: dict[str, Any]) -> None:
        """The edits of the tuners in effect; row by row where noise levels matter, which differ from row to row."""
        run, sigmas = self._others[0].run, options["sigmas"]
        ranges = {run.range_of(patch.percents) for patch in self._others}
        each = sigmas[:1] if ranges == {run.range_of((0.0, 1.0))} else sigmas
        rows, *shape = options["original_shape"]
        self._frozen = []
        for i, sigma in enumerate(each):
            told = {**options, "sigmas": sigma[None]}
            picture = Picture.of(torch.Size([rows // len(each), *shape]), told, run.tiled)
            self._frozen.append(run.folded(self._others, picture, skip[i : i + 1]))

    def _edited(self, b: int, skip: Tensor, edits: Sequence[Edit]) -> Tensor:
        if len(self._frozen) == 1:
            edited = edit_folded(b, skip, self._frozen[0])
        else:
            edited = torch.cat([edit_folded(b, s[None], each) for s, each in zip(skip, self._frozen, strict=True)])
        return edit_skip(b, skip, edits, edited)

    def to(self, _where: Any) -> _Skips:
        """All follows the skips."""
        return self


def _prediction(model: Any, name: str) -> str:
    """What the model predicts, by the noise schedule that it is sampled with, which a node may have changed."""
    kinds, sampling = comfy.model_sampling, model.get_model_object("model_sampling")
    other = tuple(getattr(kinds, kind) for kind in ("EDM", "X0", "CONST") if hasattr(kinds, kind))
    whole = len(getattr(sampling, "sigmas", ())) == getattr(sampling, "num_timesteps", None)  # LCM's has a part of them
    if whole and isinstance(sampling, kinds.ModelSamplingDiscrete) and not isinstance(sampling, other):
        if isinstance(sampling, kinds.V_PREDICTION):
            return "v_prediction"
        if isinstance(sampling, kinds.EPS):
            return "epsilon"
    raise SCEditError(
        f"model: expected one that predicts noise or velocity at whole timesteps, found {name}; load SD 1.5, SD "
        "2.1 or SDXL, without nodes that change its sampling"
    )


def _patches(model: Any) -> dict[str, list]:
    return model.model_options.get("transformer_options", {}).get("patches", {})


def _trainable(model: Any) -> tuple[Any, list[str]]:
    """A clone of the MODEL to train on, and what of it is not used in training."""
    clone, off = model.clone(), []
    options = clone.model_options.get("transformer_options", {})
    for place, patches in options.get("patches", {}).items():
        off += [f"{type(p).__name__} ({place})" for p in patches if not isinstance(p, SkipPatch)]
    off += [f"a replaced {name}" for name in options.get("patches_replace", {})]
    if "optimized_attention_override" in options:
        off.append("another attention")
    for kind, wrapped in options.get("wrappers", {}).items():
        off += [f"{key or 'a wrapper'} ({kind})" for key in wrapped]
    for name in [name for name in clone.object_patches if name.startswith("diffusion_model")]:
        off.append(f"a replaced {name}")
        del clone.object_patches[name]
    for name in list(getattr(clone, "injections", ())):  # what computes beside layers, as a LoRA in bypass mode
        off.append(name)
        clone.remove_injections(name)
    return clone, off


def look_at(part: Any, digest: Any) -> None:
    """Take into `digest` some values of a weight, or of a patch and its strength."""
    if isinstance(part, Tensor):
        with contextlib.suppress(RuntimeError, NotImplementedError, TypeError):  # kinds of weights that do not convert
            flat = part.detach().reshape(-1)
            values = flat[:: max(1, len(flat) // _LOOKED)][:_LOOKED].float().cpu()
            digest.update(f"{tuple(part.shape)} ".encode() + values.numpy().tobytes())
    elif isinstance(part, (list, tuple)):
        for each in part:
            look_at(each, digest)
    elif isinstance(part, (int, float, str)):
        digest.update(str(part).encode())
    elif hasattr(part, "weights"):  # a weight adapter of the host: LoRA, LoHa, ...
        look_at(part.weights, digest)
