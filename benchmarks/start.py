"""How long it takes from the trainer's command to its first step, with everything cached.

    python benchmarks/start.py BASE [--tokenizer FOLDER] [--rounds 3] [--out FILE.json]

BASE is a checkpoint file or a diffusers folder.  A first command, which is not counted, fills the caches from four
drawn pictures; each round is a process of its own that takes one step.  The pictures are small, so that even the step
itself, told besides, takes little.  Prints a table and writes JSON.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACK = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PACK))

from benchmarks.frame import finish, machine, parser  # noqa: E402
from training.demo.pictures import write_pictures  # noqa: E402

TARGET_SECONDS = 20


def main() -> None:
    """Measure, print, write."""
    made = parser(__doc__)
    made.add_argument("base", type=Path, help="a checkpoint file or a diffusers folder")
    made.add_argument("--tokenizer", type=Path, help="folder of CLIP's tokenizer, where none is found")
    made.add_argument("--rounds", type=int, default=3)
    options = made.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder) / "pictures", 4, seed=5, style="lantern")
        config = _config(Path(folder), options.base.resolve(), options.tokenizer)
        rounds = [_round(Path(folder), config, number) for number in range(options.rounds + 1)][1:]
    ready, stepped = ([each[part] for each in rounds] for part in ("ready", "stepped"))
    report = {
        "base": options.base.name,
        "gigabytes": _size(options.base) / 1e9,
        "machine": machine(),
        "cores": os.cpu_count(),
        "seconds_to_first_step": statistics.median(ready),
        "lowest": min(ready),
        "highest": max(ready),
        "seconds_to_its_end": statistics.median(stepped),
    }
    print(f"| {report['base']}, {report['gigabytes']:.1f} GB, all cached | seconds | lowest | highest | target |")
    print("|---|---|---|---|---|")
    print(
        f"| command to first step | {statistics.median(ready):.1f} | {min(ready):.1f} | {max(ready):.1f} "
        f"| {TARGET_SECONDS} |"
    )
    print(
        f"| command to the end of that step | {statistics.median(stepped):.1f} | {min(stepped):.1f} "
        f"| {max(stepped):.1f} | |"
    )
    finish(report, options)


def _config(folder: Path, base: Path, tokenizer: Path | None) -> dict:
    return {
        "base": str(base),
        "tuner": {"kind": "sc"},
        "data": {"folder": str(folder / "pictures"), "resolution": 64, "cache": str(folder / "cache")},
        "loop": {"steps": 1, "batch": 1, "warmup": 0},
        "previews": {"every": 0},
        "validation": {"every": 0},
        **({"tokenizer": str(tokenizer.resolve())} if tokenizer else {}),
    }


def _round(folder: Path, config: dict, number: int) -> dict[str, float]:
    """Seconds from the command to the plan, after which steps begin, and to the first step's end."""
    path = folder / f"{number}.yaml"
    path.write_text(json.dumps({**config, "output": str(folder / f"{number}.safetensors")}))
    begun = time.time()
    subprocess.run([sys.executable, "-m", "training", "train", str(path)], cwd=PACK, check=True, capture_output=True)
    events = [json.loads(line) for line in (folder / f"{number}.run/events.jsonl").read_text("utf-8").splitlines()]
    if number and any(event["misses"] for event in events if event["event"] == "caching"):
        raise RuntimeError(f"round {number}: expected all to be cached, found misses")
    at = {e["event"]: datetime.datetime.fromisoformat(e["time"]).timestamp() - begun for e in events}
    return {"ready": at["plan"], "stepped": at["step"]}


def _size(base: Path) -> int:
    files = [base] if base.is_file() else base.rglob("*.safetensors")
    return sum(file.stat().st_size for file in files)


if __name__ == "__main__":
    main()
