"""What a .safetensors checkpoint says of itself before its weights are read: names, shapes, metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from scedit_core.errors import BaseModelError, in_short

# Where text encoders and the U-Net lie: in CLIP's own layout and in OpenCLIP's.
UNET = "model.diffusion_model."
CLIP = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."
SGM_OPEN_CLIP = "conditioner.embedders.0.model."  # SD 2.x as some tools write it, and SDXL's refiner


class CheckpointHeader:
    """Shapes by name and metadata of a file; `read` gives the tensors, mapped from the file.

    Names are the usual ones where a file has others: some tools leave "text_model." out, or keep the text encoder of
    SD 2.x where SDXL has its first.

    Raises BaseModelError, with one sentence, for pickles, other endings, and files that are cut off or no safetensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix.lower() != ".safetensors":
            kind = "a pickle, which can run code" if path.suffix.lower() in _PICKLES else "another kind of file"
            raise BaseModelError(
                f"{path}: expected a diffusers folder or a .safetensors checkpoint, found {kind}; "
                "choose the .safetensors version of this model"
            )
        try:
            with safe_open(path, framework="pt") as opened:
                self._stored = _usual_names(list(opened.keys()))
                self.shapes = {name: tuple(opened.get_slice(s).get_shape()) for name, s in self._stored.items()}
                self.metadata: Mapping[str, str] = dict(opened.metadata() or {})
        except Exception as error:  # whatever a broken file makes the parser raise, it is a broken file
            raise BaseModelError(
                f"{path}: expected a whole .safetensors checkpoint, found {_damage(path, error)}; "
                f"{'download it again' if path.exists() else 'check the path'}"
            ) from error

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The tensors of these names."""
        with safe_open(self.path, framework="pt") as opened:
            return {name: opened.get_tensor(self._stored[name]) for name in names}

    def below(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """Shapes of the names that begin with `prefix`, without it."""
        return {name[len(prefix) :]: shape for name, shape in self.shapes.items() if name.startswith(prefix)}


_PICKLES = (".ckpt", ".pt", ".pth", ".bin")


def _usual_names(stored: list[str]) -> dict[str, str]:
    """Stored names by their usual names."""
    told_sizes = UNET + "label_emb.0.0.weight" in stored
    usual = {}
    for name in stored:
        at = name
        if name.startswith((CLIP + "embeddings.", CLIP + "encoder.", CLIP + "final_layer_norm.")):
            at = CLIP + "text_model." + name[len(CLIP) :]
        elif name.startswith(SGM_OPEN_CLIP) and not told_sizes:
            at = OPEN_CLIP + name[len(SGM_OPEN_CLIP) :]
        if not name.endswith("position_ids"):  # 0 to 76, which old files hold in various dtypes
            usual[at] = name
    return usual


def _damage(path: Path, error: Exception) -> str:
    try:
        size = path.stat().st_size
        with open(path, "rb") as opened:
            start = opened.read(16)
    except OSError as unreadable:
        return f"one that cannot be opened ({unreadable.strerror})" if path.exists() else "nothing there"
    if start.startswith(b"version https://"):
        return "a Git LFS pointer of a file that was not fetched"
    if start.lstrip()[:1] == b"<":
        return "a web page"
    return f"one of {size} bytes that cannot be read ({in_short(error, 120)})"
