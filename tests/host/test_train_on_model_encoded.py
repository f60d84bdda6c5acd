"""Pictures that are trained on, on the MODEL's side: what they take of the memory."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from small_model import prompt, small_model


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_set_of_pictures_takes_no_memory_of_its_own(training, tmp_path):
    """160 MiB of latents and hints lie in files that are read step by step, and go when the training ends."""
    base = training.host_base.HostBase(small_model(), "fp32", False, None)
    latents = [{"samples": torch.rand(1, 4, 512, 512, dtype=torch.float16)} for _ in range(20)]
    encoded = training.picture_set.Encoded(tmp_path / "encoded")
    with torch.inference_mode(False):
        before = anonymous_mib()
        pictures = training.picture_set.from_graph(base, encoded, latents, [prompt(1)])
        for picture in pictures:
            picture.hint_file = encoded.keep(pixels=torch.zeros(3, 1024, 1365, dtype=torch.uint8))
        assert anonymous_mib() - before < 80  # what an allocator holds back is a part of it
    means = [base.model.model.process_latent_in(each["samples"].float())[0] for each in latents]
    assert all(torch.equal(p.mean, mean) for p, mean in zip(pictures, means, strict=True))
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) > 155 * 2**20
    encoded.remove()
    assert not any(tmp_path.iterdir())


def anonymous_mib() -> float:
    """MiB of this process that no file has."""
    return int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
