"""What conditions cost beside bare calls: time of canny and colour palette, peak memory of depth.

    python benchmarks/conditions.py [--out FILE.json] [--rounds 30]

Time, on pictures of 512x512, one and five of them, on one thread.  Ours takes a tensor of floats and gives one.  It is
compared with two things that a user could write:

    cv2        the bare cv2 calls, bytes to bytes: no conversion, no check
    tensor     the same calls between the conversions that they need: floats to bytes before, bytes to floats after

All take turns in each round, and each is given its fastest round in time of the processor, which is the one that
nothing else on the machine disturbed.

Memory, of depth with a random DPT-hybrid of middling size on 1024x1024: the peak of a process of its own, once with
ours and once with the bare call of the same transformers model on a tensor of the same size.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.frame import finish, machine, parser
from scedit_core.conditions.canny import canny
from scedit_core.conditions.color_palette import color_palette
from scedit_core.conditions.depth import depth, load_depth

SIDE, TARGET = 512, 1.5
DEPTH_SIDE, MEMORY_TARGET = 1024, 1.1


def main() -> None:
    """Measure, print, write."""
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=30, help="how often each is run")
    made.add_argument("--depth", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)  # in the child process
    options = made.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if options.depth:
        print(json.dumps(_run_depth(options.depth[0], Path(options.depth[1]))))
        return
    rows = [
        _row(name, ours, bare, batch, options.rounds)
        for name, ours, bare in (("canny", canny, _bare_canny), ("color_palette", color_palette, _bare_mosaic))
        for batch in (1, 5)
    ]
    print(f"{'condition':<14} {'batch':>5} {'ours ms':>9} {'cv2 ms':>9} {'tensor ms':>10} {'/ cv2':>6} {'/ tensor':>9}")
    for row in rows:
        print(f"{row['condition']:<14} {row['batch']:>5} {row['ours_ms']:>9.2f} {row['cv2_ms']:>9.2f} ", end="")
        print(f"{row['tensor_ms']:>10.2f} {row['over_cv2']:>6.2f} {row['over_tensor']:>9.2f}")
    print(f"target: at most {TARGET}\n")
    memory = _memory()
    print(f"depth, peak of the process in MiB: ours {memory['ours_mib']:.0f}, bare {memory['bare_mib']:.0f}, ", end="")
    print(f"before the run {memory['before_mib']:.0f}")
    print(f"ratio {memory['ratio']:.3f}, of what the run itself takes {memory['run_ratio']:.3f}", end="")
    print(f"; target: at most {MEMORY_TARGET}")
    finish({"machine": machine(), "time": rows, "depth_memory": memory}, options)


def _bare_canny(picture: np.ndarray) -> np.ndarray:
    return cv2.Canny(picture, 100, 200)


def _bare_mosaic(picture: np.ndarray) -> np.ndarray:
    small = cv2.resize(picture, (SIDE // 64, SIDE // 64), interpolation=cv2.INTER_CUBIC)
    return cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)


def _with_conversions(bare, images: torch.Tensor) -> torch.Tensor:
    """`bare` for each of [B,H,W,3] in 0..1 -> [B,H,W,3] in 0..1."""
    made = []
    for image in images:
        found = torch.from_numpy(bare((image * 255).round().to(torch.uint8).numpy())).float() / 255
        made.append(found if found.ndim == 3 else found[..., None].repeat(1, 1, 3))
    return torch.stack(made)


def _row(name: str, ours, bare, batch: int, rounds: int) -> dict:
    """Milliseconds for a batch of pictures with even areas, edges and some noise."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, 16, 16, generator=draw)
    images = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="nearest").permute(0, 2, 3, 1)
    images = (images + 0.02 * torch.rand(images.shape, generator=draw)).clamp(0, 1).contiguous()
    pixels = (images * 255).round().to(torch.uint8).numpy()
    if not torch.equal(ours(images), _with_conversions(bare, images)):
        raise SystemExit(f"{name}: expected the pictures of the bare calls, found others; nothing was measured")
    ways = {
        "ours": lambda: ours(images),
        "cv2": lambda: [bare(each) for each in pixels],
        "tensor": lambda: _with_conversions(bare, images),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for way, run in ways.items():
            start = time.thread_time()
            run()
            best[way] = min(best[way], 1000 * (time.thread_time() - start))
    times = {f"{way}_ms": ms for way, ms in best.items()}
    ratios = {f"over_{way}": best["ours"] / best[way] for way in ("cv2", "tensor")}
    return {"condition": name, "batch": batch, **times, **ratios}


def _memory() -> dict:
    """Peaks of both ways, each in a process of its own, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        _save_detector(Path(folder))
        found = {}
        for way in ("bare", "ours"):
            command = [sys.executable, __file__, "--depth", way, folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way] = json.loads(done.stdout)
    ours, bare = found["ours"], found["bare"]
    return {
        "ours_mib": ours["peak_mib"],
        "bare_mib": bare["peak_mib"],
        "before_mib": bare["before_mib"],
        "ratio": ours["peak_mib"] / bare["peak_mib"],
        "run_ratio": (ours["peak_mib"] - ours["before_mib"]) / (bare["peak_mib"] - bare["before_mib"]),
    }


def _run_depth(way: str, folder: Path) -> dict:
    """Peak memory of this process before and after depth was run once."""
    network = load_depth(folder)
    images = torch.rand(1, DEPTH_SIDE, DEPTH_SIDE, 3, generator=torch.Generator().manual_seed(0))
    before = _peak_mib()
    if way == "ours":
        depth(images, network)
    else:
        network.model.dpt.embeddings.image_size = (DEPTH_SIDE, DEPTH_SIDE)
        with torch.inference_mode():
            network.model(pixel_values=images.permute(0, 3, 1, 2))
    return {"before_mib": before, "peak_mib": _peak_mib()}


def _peak_mib() -> float:
    """The most that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def _save_detector(folder: Path) -> None:
    """A DPT-hybrid with a third of the real one's width and random weights."""
    import transformers

    torch.manual_seed(0)
    backbone = transformers.BitConfig(
        embedding_size=32,
        hidden_sizes=[64, 128, 256],
        depths=[1, 1, 2],
        num_groups=8,
        layer_type="bottleneck",
        global_padding="same",
        embedding_dynamic_padding=True,
        out_features=["stage1", "stage2", "stage3"],
    )
    config = transformers.DPTConfig(
        is_hybrid=True,
        backbone_config=backbone,
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=768,
        image_size=384,
        patch_size=16,
        backbone_featmap_shape=[1, 256, 24, 24],
        neck_hidden_sizes=[64, 128, 192, 192],
        backbone_out_indices=[1, 2, 4, 5],
        neck_ignore_stages=[0, 1],
        readout_type="project",
        fusion_hidden_size=64,
    )
    transformers.DPTForDepthEstimation(config).save_pretrained(folder)
    transformers.DPTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)


if __name__ == "__main__":
    main()
