"""Foreign weight formats.  Each is a naming: a pure, reversible map between its keys and the pack's own.

A format module has `NAME`, `KIND` ("sc" or "csc"), `matches(keys)`, and `names(keys)`, which maps each of its keys to
the own name.
"""

from . import scepter_csc, scepter_sc

FORMATS = (scepter_sc, scepter_csc)
