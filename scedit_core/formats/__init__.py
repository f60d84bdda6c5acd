"""Weight formats, one module each.  A format is a naming: a reversible map between its keys and the pack's own.

A format module has `NAME` and
  matches(keys)         whether a file with these keys is of the format;
  read(entries)         the tuners inside, as {tuner name: {own name: key}}; entries are weight_files.Entry by key;
and, where they apply,
  REFUSED               patterns of keys that look alike but mean something else, with what to say about them;
  notes(sidecars, name) metadata that the JSON beside the weights holds, and TunerFileError where it rules the file out;
  write(tensors, layout, metadata) -> Release, how the format names and places a tuner's weights.

The own names are those of the pack's own format: `tuners.{b}.down.weight`, `hint.dense.{i}.bias` and so on.
"""

from . import scedit, scedit_pytorch, scepter_csc, scepter_sc, swift_diffusers, swift_scepter
from .release import Release

FORMATS = (scedit, scepter_sc, scepter_csc, swift_scepter, swift_diffusers, scedit_pytorch)

__all__ = ["FORMATS", "Release"]
