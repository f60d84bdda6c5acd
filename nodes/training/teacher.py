"""A CONTROL_NET of the graph as the teacher of a CSC-Tuner (scedit_core/fitting/distilling.py)."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import torch
from torch import Tensor

from ...scedit_core.errors import SCEditError, in_short
from ...scedit_core.fitting.base import Added, TextStates
from ..host.control import SCEditControl
from .host_base import HostBase, look_at

_PROBE = 8  # side of the latent on which a teacher is tried; enough for every U-Net, and cheap
_TOKENS, _POOLED = 77, 1280
_DO = "connect a ControlNet that was made for this checkpoint"


class HostTeacher:
    """A ControlNet at strength 1 over the whole schedule.  See Teacher.

    control: the CONTROL_NET; a copy of it is what runs, with a union's type as it was set.
    name:    for people.

    Raises SCEditError for a control that adds nothing to skips, or needs more than a picture as its hint.
    """

    def __init__(self, control: Any, base: HostBase, name: str) -> None:
        check_kind(control)
        self.name, self.base = name, base
        self.control = control.copy()
        self.control.set_previous_controlnet(None)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with its weights and with a union's type."""
        digest = hashlib.blake2b(f"{self.control.extra_args}".encode(), digest_size=8)
        for state in self._states():
            for name, weight in sorted(state.items()):
                digest.update(name.encode())
                look_at(weight, digest)
        return digest.hexdigest()

    @property
    def parameters(self) -> int:
        """How many weights it has; of a control LoRA, what its file has."""
        return sum(weight.numel() for state in self._states() for weight in state.values())

    def _states(self) -> list[dict[str, Tensor]]:
        weights = getattr(self.control, "control_weights", None)  # of a control LoRA, which is whole in a run only
        return [weights] if weights is not None else [each.model.state_dict() for each in self.models()]

    def models(self) -> list[Any]:
        """What the host has to load for it."""
        return self.control.get_models()

    def memory_required(self) -> float:
        """Bytes that it asks for beside its weights."""
        return self.control.inference_memory_requirements(self.base.compute_dtype)

    def start(self) -> None:
        """Begin a run, or begin it again after something else; the base is to be loaded."""
        inner = self.base.model.model
        with torch.inference_mode():  # in which the host does so
            self.control.set_cond_hint(None, 1.0, (0.0, 1.0))
            self.control.pre_run(inner, inner.model_sampling.percent_to_sigma)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While open, it can be asked."""
        try:
            self.start()
            yield
        finally:
            self.control.cleanup()

    @torch.no_grad()
    def residuals(
        self, noisy: Tensor, timesteps: Tensor, hints: Tensor, text: TextStates, sizes: Tensor | None
    ) -> Added:
        """See Teacher; to be called while `running`."""
        base, control = self.base, self.control
        noisy, timesteps = noisy.to(base.unet_device), timesteps.to(base.unet_device).expand(len(noisy))
        sigmas = base.sigmas(timesteps)
        conditions = base.conditions(noisy, text, sizes)
        conditions = {k: v.to(base.unet_device) for k, v in conditions.items() if isinstance(v, Tensor)}
        # The host's latents at a noise level are not scaled to unit variance; a control scales them itself.
        latents = noisy * (sigmas.square() + 1).sqrt()[:, None, None, None].to(noisy)
        options = {"sigmas": sigmas, "cond_or_uncond": [0], "uuids": [], "patches": {}}
        control.cond_hint, control.cond_hint_original = None, hints.float()
        found = control.get_control(latents, sigmas, conditions, 1, options) or {}
        output = [_own(each) for each in found.get("output", ())][::-1]
        middle = [_own(each) for each in found.get("middle", ())]
        output += [None] * (len(base.layout) - len(output))
        return Added(output, middle[-1] if middle else None)

    def check(self) -> None:
        """Raise SCEditError where it was not made for the base; to be called while `running`."""
        base, layout = self.base, self.base.layout
        draw = torch.Generator().manual_seed(0)
        noisy = torch.randn(1, base.latent_channels, _PROBE, _PROBE, generator=draw)
        width = base.model.model.model_config.unet_config["context_dim"]
        text = TextStates(torch.zeros(1, _TOKENS, width), torch.zeros(1, _POOLED) if base.needs_sizes else None)
        sizes = torch.tensor([[1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0]]) if base.needs_sizes else None
        hint = torch.zeros(1, 3, _PROBE * 8, _PROBE * 8)
        try:
            added = self.residuals(noisy, torch.tensor([500]), hint, text, sizes)
        except (RuntimeError, ValueError, AssertionError, KeyError, TypeError, AttributeError) as error:
            raise self._another(f"one for another base ({in_short(error, 100)})") from error
        if all(each is None for each in added.skips):
            raise SCEditError(
                f"control_net: expected a ControlNet, found {_kind(self.control)}, which adds nothing to skips; {_DO}"
            )
        skips = base.skips(noisy, torch.tensor([500]), text, sizes)
        for b, (skip, each) in enumerate(zip(skips, added.skips, strict=False)):
            if each is not None and each.shape != skip.shape:
                raise self._another(f"one that adds {list(each.shape)} to block {b} of {list(skip.shape)}")
        if len(added.skips) > len(layout):
            raise self._another(f"one for {len(added.skips)} skips")

    def _another(self, found: str) -> SCEditError:
        return SCEditError(f"control_net: expected a ControlNet for {self.base.layout.title}, found {found}; {_DO}")


def check_kind(control: Any) -> None:
    """Raise SCEditError for what cannot teach by its kind."""
    network, found = getattr(control, "control_model", None), None
    if isinstance(control, SCEditControl):
        found = "a CSC-Tuner (to train it further, choose it in start_from of Train SCEdit on Model)"
    elif isinstance(control, comfy.controlnet.T2IAdapter):
        found = "a T2I-Adapter, which changes the encoder and not the skips"
    elif "lllite" in _kind(control).lower():
        found = f"{_kind(control)}, which changes attention layers and not the skips"
    elif getattr(control, "concat_mask", False) or _hint_channels(control) not in (None, 3):
        found = f"one with {_hint_channels(control) or 'more'} hint channels, which needs a mask beside its picture"
    elif getattr(control, "latent_format", None) is not None or (
        type(control) is comfy.controlnet.ControlNet and not isinstance(network, comfy.cldm.cldm.ControlNet)
    ):
        found = f"{type(network).__name__} of a transformer model, which has no skips"
    elif not hasattr(control, "get_control"):
        found = f"{_kind(control)} without get_control"
    if found is not None:
        raise SCEditError(f"control_net: expected a ControlNet that adds to skips, found {found}; {_DO}")


def _hint_channels(control: Any) -> int | None:
    """How many channels its hint has, where that can be read off its weights."""
    first = (getattr(control, "control_weights", None) or {}).get("input_hint_block.0.weight")
    block = getattr(getattr(control, "control_model", None), "input_hint_block", None)
    if first is None and block is not None:
        first = next((p for p in block.parameters() if p.ndim == 4), None)
    return None if first is None else first.shape[1]


def _kind(control: Any) -> str:
    return type(control).__name__


def _own(residual: Tensor | None) -> Tensor | None:
    """One that autograd can save."""
    return residual.clone() if residual is not None and residual.is_inference() else residual
