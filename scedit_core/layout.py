"""The skips of a diffusion U-Net: how many there are, their channels, and their size relative to the latent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import LayoutError

# Skip channels of the two lines of U-Nets in block order, in units of the first convolution's width (320 as released).
_LINES = {"sd": (4,) * 5 + (2,) * 3 + (1,) * 4, "sdxl": (4,) * 2 + (2,) * 3 + (1,) * 4}
_SD_CHANNELS, _SDXL_CHANNELS = (tuple(320 * unit for unit in units) for units in _LINES.values())

# Family names.  SD 1.x and SD 2.x have the same skips; only the width of their text states tells them apart.
SD1, SD2, SD1_OR_SD2, SDXL, CUSTOM = "sd1", "sd2", "sd1-or-sd2", "sdxl", "custom"
_SD_TEXT_WIDTHS = {768: SD1, 1024: SD2}
FAMILY_TITLES = {
    SD1: "SD 1.5",
    SD2: "SD 2.1",
    SD1_OR_SD2: "SD 1.5 or SD 2.1",
    SDXL: "SDXL",
    CUSTOM: "a custom U-Net",
}


@dataclass(frozen=True)
class SkipLayout:
    """Channels and strides of a U-Net's skips in block order (block 0 is the deepest output block).

    channels: channels C of the skip that output block b takes.
    strides:  how many times smaller than the latent that skip is, per side (1, 2, 4, 8).
    family:   "sd1", "sd2", "sd1-or-sd2" (same shapes), "sdxl" or "custom".

    Source: SCEdit paper, section 3; docs/method.md.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    family: str = CUSTOM

    def __post_init__(self) -> None:
        fits = len(self.channels) == len(self.strides) and len(self.channels) > 0
        if not fits or min(self.channels) < 1 or min(self.strides) < 1:
            raise LayoutError(
                f"skip layout: expected as many channels as strides, all at least 1, found {_short(self.channels)} and "
                f"{_short(self.strides)}; correct the layout, or the file's metadata"
            )
        if any(deep % shallow for deep, shallow in zip(self.strides, self.strides[1:], strict=False)):
            raise LayoutError(
                f"skip layout: expected each stride a multiple of the next, deepest first, found "
                f"{_short(self.strides)}; correct the layout, or the file's metadata"
            )

    def __len__(self) -> int:
        return len(self.channels)

    @classmethod
    def from_diffusers(cls, config: Mapping[str, Any]) -> SkipLayout:
        """The layout of a diffusers `UNet2DConditionModel` from its `config`.

        Raises LayoutError where the config belongs to another kind of model.
        """
        widths = config.get("block_out_channels")
        if not widths or "down_block_types" not in config:
            name = config.get("_class_name", "unknown class")
            raise LayoutError(
                f"model config: expected a diffusers UNet2DConditionModel, found {name}; "
                "SCEdit needs a U-Net with skips"
            )
        layers = config.get("layers_per_block", 2)
        layers = [layers] * len(widths) if isinstance(layers, int) else list(layers)
        return cls._from_levels(list(widths), layers, config.get("cross_attention_dim"))

    @classmethod
    def from_host(cls, unet_config: Mapping[str, Any]) -> SkipLayout:
        """The layout of the host's `UNetModel` from its `unet_config`.

        Raises LayoutError for models without output blocks (transformers such as Flux or SD 3).
        """
        width, multipliers = unet_config.get("model_channels"), unet_config.get("channel_mult")
        if not width or not multipliers:
            name = unet_config.get("image_model") or "a model without output blocks"
            raise LayoutError(
                f"model: expected a U-Net (SD 1.5, SD 2.1, SDXL or alike), found {name}; "
                "SCEdit edits skip connections, so load a U-Net checkpoint"
            )
        widths = [int(width * m) for m in multipliers]
        layers = unet_config.get("num_res_blocks", 2)
        layers = [layers] * len(widths) if isinstance(layers, int) else list(layers)
        return cls._from_levels(widths, layers, unet_config.get("context_dim"), first=width)

    @classmethod
    def _from_levels(
        cls, widths: list[int], layers: list[int], text_width: int | Sequence[int] | None, first: int | None = None
    ) -> SkipLayout:
        channels, strides = [first or widths[0]], [1]  # the first convolution
        for level, (width, count) in enumerate(zip(widths, layers, strict=True)):
            channels += [width] * count
            strides += [2**level] * count
            if level < len(widths) - 1:  # the downsampler
                channels.append(width)
                strides.append(2 ** (level + 1))
        channels, strides = tuple(reversed(channels)), tuple(reversed(strides))
        if isinstance(text_width, Sequence):
            text_width = text_width[0]
        family = family_of(channels)
        if family == SD1_OR_SD2:
            family = _SD_TEXT_WIDTHS.get(text_width, SD1_OR_SD2)
        return cls(channels, strides, family)

    @classmethod
    def from_channels(cls, channels: Sequence[int], family: str | None = None) -> SkipLayout:
        """The layout of skips whose channels (block order) are known and whose strides are not.

        U-Nets of the latent-diffusion line have r residual blocks on each level, so that each level gives r + 1 skips,
        the first of them from a downsampler with the channels of the level before.  The r that fits the channels gives
        the strides; where several fit, 2 is taken first, then 3.  Raises LayoutError where none fits.
        """
        encoder = list(reversed(list(channels)))
        for group in (3, 4, 2, 5, 6):
            if len(encoder) % group == 0 and _is_regular(encoder, group):
                strides = tuple(2 ** (i // group) for i in range(len(encoder)))
                return cls(tuple(channels), tuple(reversed(strides)), family or family_of(channels))
        raise LayoutError(
            f"skip channels: expected those of a U-Net with equal levels, found {_short(channels)}; "
            "use a file that holds all its blocks, or one in this pack's own format"
        )

    @classmethod
    def from_tuned(cls, tuned: Mapping[int, int], family: str | None = None) -> SkipLayout:
        """The layout of a U-Net of which only the channels of some blocks are known, as {block: channels}.

        Tried in this order: the SD and SDXL lines at their own or another width (`family`, where it names one of the
        two, decides between them), then, where no block is missing, any U-Net with equal levels.
        Raises LayoutError where nothing fits, or where both lines do and `family` does not say which.
        """
        fitting = [name for name, units in _LINES.items() if _unit(tuned, units)]
        if len(fitting) > 1:
            fitting = [
                name
                for name in fitting
                if (family in (SD1, SD2, SD1_OR_SD2, SDXL)) and (name == SDXL) == (family == SDXL)
            ]
            if not fitting:
                raise LayoutError(
                    f"skip channels: expected blocks that tell SD from SDXL, found only {_list(tuned)}; "
                    "name the family in the metadata (scedit.family) or in the folder's name"
                )
        if fitting:
            units = _LINES[fitting[0]]
            return cls.from_channels([unit * _unit(tuned, units) for unit in units], family)
        if sorted(tuned) == list(range(len(tuned))) and tuned:
            return cls.from_channels([tuned[b] for b in sorted(tuned)], family)
        raise LayoutError(
            f"skip channels: expected blocks of a known U-Net, found {_list(tuned)}; "
            "use a file with all blocks, or one in this pack's own format"
        )

    def mismatch(self, tuner: SkipLayout) -> str | None:
        """Why a tuner with the layout `tuner` cannot work on a U-Net with this one, or None if it can."""
        if self.channels != tuner.channels or self.strides != tuner.strides:
            if self.title != tuner.title and CUSTOM not in (self.family, tuner.family):
                return f"expected a tuner for {self.title}, found one for {tuner.title}"
            return (
                f"expected a tuner for {self.title}, {len(self)} skips of {_short(self.channels)} channels, "
                f"found one for {tuner.title}, {len(tuner)} skips of {_short(tuner.channels)} channels"
            )
        if {self.family, tuner.family} == {SD1, SD2}:
            return f"expected a tuner for {self.title}, found one for {tuner.title}"
        return None

    @property
    def title(self) -> str:
        """The family's name as people write it."""
        return FAMILY_TITLES.get(self.family, self.family)


def family_of(channels: Sequence[int]) -> str:
    """The family whose skips have these channels in block order: "sd1-or-sd2", "sdxl" or "custom"."""
    return {_SD_CHANNELS: SD1_OR_SD2, _SDXL_CHANNELS: SDXL}.get(tuple(channels), CUSTOM)


def _unit(tuned: Mapping[int, int], units: Sequence[int]) -> int | None:
    """The width w for which every tuned block b has units[b] * w channels, or None."""
    if not tuned or not all(0 <= b < len(units) and c % units[b] == 0 for b, c in tuned.items()):
        return None
    widths = {c // units[b] for b, c in tuned.items()}
    return widths.pop() if len(widths) == 1 else None


def _is_regular(encoder: list[int], group: int) -> bool:
    if len(set(encoder[:group])) > 1:
        return False
    width = encoder[0]
    for first in range(0, len(encoder), group):
        level = encoder[first : first + group]
        if level[0] != width or len(set(level[1:])) > 1:
            return False
        width = level[-1]
    return True


def _short(channels: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for c in channels:
        if runs and runs[-1][0] == c:
            runs[-1][1] += 1
        else:
            runs.append([c, 1])
    return ", ".join(f"{c} x{n}" for c, n in runs[:16]) + (" and more" if len(runs) > 16 else "")


def _list(tuned: Mapping[int, int]) -> str:
    few = [f"block {b} with {c}" for b, c in sorted(tuned.items())[:4]]
    return ", ".join(few) + (f" and {len(tuned) - 4} more" if len(tuned) > 4 else "") if few else "none"
