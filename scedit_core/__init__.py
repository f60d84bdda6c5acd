"""SCEdit: small trained modules that edit the skip connections of a diffusion U-Net (arXiv 2312.11392)."""

from .errors import HintError, LayoutError, SCEditError, TunerFileError
from .files import inspect_tuner, load_tuner, save_tuner
from .layout import SkipLayout
from .tuners import CSCTuner, SCTuner

__all__ = [
    "CSCTuner",
    "HintError",
    "LayoutError",
    "SCEditError",
    "SCTuner",
    "SkipLayout",
    "TunerFileError",
    "inspect_tuner",
    "load_tuner",
    "save_tuner",
]
