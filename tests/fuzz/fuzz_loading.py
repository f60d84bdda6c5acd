"""python fuzz_loading.py [seconds]: coverage-guided fuzzing of the loader with atheris (make fuzz).

Starts from the good files of every format.  An input that ends in anything but a tuner or TunerFileError is written to
tests/fuzz/found, which the test suite loads from then on.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["zipfile", "pickletools"]):
    import pickletools  # noqa: F401
    import zipfile  # noqa: F401

import torch._weights_only_unpickler as unpickler  # outside, since a hook for it would take all of torch, for minutes

unpickler.Unpickler.load = atheris.instrument_func(unpickler.Unpickler.load)

with atheris.instrument_imports(include=["scedit_core"]):
    from damage import good_files

    from scedit_core import TunerFileError, load_tuner

FOUND = Path(__file__).parent / "found"
_SECONDS, _LONGEST = 300, 2**17


def load(content: bytes) -> None:
    """Load `content` under both endings; keep it and fail where something else than TunerFileError is raised."""
    for ending in (".safetensors", ".bin"):
        path = _place / f"case{ending}"
        path.unlink(missing_ok=True)  # files that were mapped must not change
        path.write_bytes(content)
        try:
            load_tuner(path)
        except TunerFileError:
            continue
        except BaseException:
            FOUND.mkdir(exist_ok=True)
            (FOUND / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
            raise


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        _place = Path(folder)
        corpus = _place / "corpus"
        corpus.mkdir()
        for name, content in good_files().items():
            (corpus / name).write_bytes(content)
        seconds = sys.argv[1] if len(sys.argv) > 1 else str(_SECONDS)
        options = [f"-max_total_time={seconds}", f"-max_len={_LONGEST}", "-rss_limit_mb=4096", "-timeout=10"]
        atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", str(corpus)], load)
        atheris.Fuzz()
