"""All that a GPU can tell, in one command: parity, sampling and training, at most nine minutes on an H100.

    python -m benchmarks.gpu [--host COMFYUI | --no-host] [--wheels FOLDER] [--parts ...] [--minutes 9]
                             [--out benchmarks/results] [--dry-run]
    python -m benchmarks.gpu --fetch-wheels FOLDER
    python -m benchmarks.gpu --draw FILE.json

Prints what it will do, does one part after the other, and after each writes <out>/<card>.json with the machine, every
finished part's report and command, and the reason of every part that failed or was left out; at the end a plot of each
part that has one.  Started again, it does what is still missing.  A part whose time is over hands over the rows that it
has.  --host names a ComfyUI checkout, else COMFYUI_PATH does, else ~/comfy/ComfyUI is looked for; without one sampling
and training on the MODEL are left out.

A machine with torch for CUDA and Python 3.12 but no network gets the rest, pinned in requirements/gpu.txt, from wheels:
--fetch-wheels downloads them, at most 40 MiB, and --wheels installs them into build/site, for this script alone.
--dry-run does every script at a tiny size on the CPU, and writes into build/gpu.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import frame, plots
from benchmarks.frame import HOST, MIB, PACK, host_version, mark, seconds, show, some_of

PINS = PACK / "requirements" / "gpu.txt"
WHEELS_MIB = 40


@dataclass(frozen=True)
class Part:
    """One command: a script of this folder.

    tiny:    arguments in place of `arguments` in a dry run, which leaves the part out where there are none.
    seconds: what it is expected to take on an H100; it is stopped after twice that.
    """

    name: str
    what: str
    script: str
    arguments: str
    tiny: str
    seconds: int

    @property
    def on_host(self) -> bool:
        """Whether it runs on a ComfyUI checkout."""
        return self.script in ("inference", "train_in_host") or "--in-comfyui" in self.arguments


# What draws the report of a script.
PLOTS = {"training": plots.training, "inference": plots.sampling}
_SAMPLED = '--variants SC-Tuner CSC-Tuner "two CSC-Tuners" "four CSC-Tuners" T2I-Adapter ControlNet-LLLite ControlNet'
_FEW_SAMPLED = '--variants SC-Tuner CSC-Tuner "four CSC-Tuners" ControlNet'
_LEAN, _LEANEST = "'frozen layers'", "'frozen layers, checkpointing, 8 bits'"
_MEASURED = "--measure-only --steps 5 --savings"
_PAIR = f"{_MEASURED} {_LEAN} --methods SC-Tuner 'LoRA r64'"
_FOUR = "--methods SC-Tuner 'LoRA r64' CSC-Tuner ControlNet"
# In order of what is wanted first.  A dry run does each script once, with all models: most of its time is importing.
PARTS = [
    Part(
        "parity", "whether half precision, 8 bits, compiling and fused updates agree with the CPU",
        "parity", "--kinds sc csc", "--kinds csc", 40,
    ),
    Part(
        "training SD 1.5", "an update at 512 px, batches 1, 4 and 16, eager: peak and steps per second", "training",
        f"--models sd15 --batches 1 4 16 {_MEASURED} {_LEAN} 'frozen layers, checkpointing' {_FOUR} 'LoRA r4'",
        "--models sd15 sdxl --tiny --batches 1 --channels-last --measure-only --steps 1 "
        f"--savings {_LEAN} --methods SC-Tuner ControlNet", 80,
    ),
    Part(
        "training SDXL", "an update at 1024 px, batches 1 and 4, eager: peak and steps per second",
        "training", f"--models sdxl --batches 1 4 {_MEASURED} {_LEAN} {_LEANEST} {_FOUR}", "", 80,
    ),
    Part(
        "sampling SD 1.5", "a step at 512 px, batch 2, fp16, eager", "inference",
        f"--model sd15 --dtype float16 --steps 5 --rounds 4 {_SAMPLED}",
        "--model sd15 --dtype float32 --width 32 --latent 16 --steps 2 --rounds 1 --channels-last "
        "--variants SC-Tuner CSC-Tuner ControlNet-LLLite ControlNet", 35,
    ),
    Part(
        "training SD 1.5, compiled", "the same at batch 4 with compiled blocks",
        "training", f"--models sd15 --batches 4 --compile {_PAIR}", "", 50,
    ),
    Part(
        "training SDXL, compiled", "the same at batch 1 with compiled blocks",
        "training", f"--models sdxl --batches 1 --compile {_PAIR}", "", 60,
    ),
    Part(
        "sampling SDXL", "a step at 1024 px, batch 2, fp16, eager",
        "inference", f"--model sdxl --dtype float16 --steps 5 --rounds 2 {_SAMPLED}", "", 45,
    ),
    Part(
        "parity in ComfyUI", "whether sampling agrees with the CPU: half precision, compiled, dynamic VRAM",
        "parity", "--in-comfyui", "--in-comfyui --paths float16", 25,
    ),
    Part(
        "training on the MODEL", "Train SCEdit on Model beside core's Train LoRA, SD 1.5 at 512 px", "train_in_host",
        "--model sd15 --latent 64 --stored bf16 --steps 6 --batches 1 4",
        "--model sd15 --latent 16 --width 32 --rank 4 --steps 3 --batches 1", 35,
    ),
    Part(
        "sampling SD 1.5, compiled", "the same through ComfyUI's TorchCompileModel",
        "inference", f"--model sd15 --dtype float16 --steps 5 --rounds 2 --compile {_FEW_SAMPLED}", "", 40,
    ),
    Part(
        "training SD 1.5, channels last", "whether that order of weights is faster, at batch 4",
        "training", f"--models sd15 --batches 4 --channels-last {_PAIR}", "", 15,
    ),
    Part(
        "training SD 1.5, CUDA graphs", "whether blocks as CUDA graphs hold and are faster, at batch 1",
        "training", f"--models sd15 --batches 1 --compile cudagraphs {_PAIR}", "", 15,
    ),
    Part(
        "full fine-tuning", "SD 1.5 at batch 4, SDXL at batch 1", "training",
        "--models sd15 sdxl --batches 1 4 --measure-only --steps 4 --savings none checkpointing "
        "--methods 'full fine-tuning'", "", 20,
    ),
]  # fmt: skip


class Report:
    """The JSON file, written anew after each part."""

    def __init__(self, path: Path, machine: dict[str, Any]) -> None:
        self.path = path
        before = json.loads(path.read_text("utf-8")) if path.exists() else {}
        same = before.get("machine", {}).get("torch") == machine["torch"]
        self.parts: dict[str, dict] = before.get("parts", {}) if same else {}
        self.machine = machine

    def done(self, part: Part, arguments: list[str]) -> bool:
        """Whether the part was finished before, with the same arguments."""
        told = self.parts.get(part.name, {})
        return told.get("state") == "done" and told.get("arguments") == arguments

    def tell(self, part: Part, **values: Any) -> None:
        """Set what is known of a part, and write all."""
        self.parts[part.name] = values
        whole = self.path.with_suffix(".part")
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_text(json.dumps({"machine": self.machine, "parts": self.parts}, indent=1) + "\n", "utf-8")
        whole.replace(self.path)


def main() -> int:
    """Print the plan, do the parts, write.  Returns 1 where a part failed, else 0."""
    options = frame.options(
        __doc__, host=HOST, no_host=False, draw=Path, wheels=Path, fetch_wheels=Path, minutes=9.0, dry_run=False,
        parts=some_of(part.name for part in PARTS),
    )  # fmt: skip
    if options.fetch_wheels:
        return fetch_wheels(options.fetch_wheels)
    if options.draw:
        return draw(options.draw)
    begun, dry, host = time.monotonic(), options.dry_run, None
    if options.host and not options.no_host:
        host_version(options.host)
        host = options.host.resolve()
    environment = _environment(options)
    machine = {"device": "dry run", "torch": importlib.metadata.version("torch")}
    if not dry:
        probe = [sys.executable, "-c", "import json; from benchmarks import gpu; print(json.dumps(gpu.card()))"]
        told = subprocess.run(probe, cwd=PACK, env=environment, check=True, stdout=subprocess.PIPE).stdout
        machine = json.loads(told)
        if "memory_mib" not in machine:
            print("gpu: expected a GPU that torch can use, found none; --dry-run tries all at a tiny size on the CPU")
            return 2
    folder = options.out or PACK / ("build/gpu" if dry else "benchmarks/results")
    report = Report(folder / f"{_file_name(machine['device'])}.json", machine)
    plan = []
    for part in PARTS:
        if part.name in options.parts and (part.tiny or not dry):
            words = shlex.split(part.tiny if dry else part.arguments)
            plan.append((part, words + (["--host", str(host)] if part.on_host else [])))
    _print_plan(plan, report, host, options.minutes)
    for part, arguments in plan:
        left = 60 * options.minutes - (time.monotonic() - begun)
        if report.done(part, arguments):
            continue
        if part.on_host and host is None:
            reason = "it needs a ComfyUI checkout, and none was found; see --host"
            told = {"state": "left out", "reason": reason}
        elif left < min(part.seconds / 4, 30):
            reason = f"{left:.0f} s of {options.minutes:g} minutes were left; run again"
            told = {"state": "left out", "reason": reason}
        else:
            told = _run(part, arguments, environment, left if dry else min(left, 2 * part.seconds))
            print(f"{part.name}: {told['state']} in {told['seconds']} s {told.get('reason', '')}", flush=True)
        report.tell(part, arguments=arguments, **told)
        if told["state"] == "interrupted":
            break
    draw(report.path)
    told = [{"part": name, "state": each["state"], "why": each.get("reason")} for name, each in report.parts.items()]
    show(f"{time.monotonic() - begun:.0f} s in all", told)
    return int(any(each["state"] in ("failed", "interrupted") for each in told))


def card() -> dict[str, Any]:
    """The machine, and how fast its GPU multiplies and copies.

    For a process of its own: one that has asked for a GPU takes some of its memory until it ends.
    """
    told = frame.machine()
    if torch.cuda.is_available():
        a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
        b = torch.empty_like(a)
        told["matmul_tflops"] = round(2 * 8192**3 / _mean_seconds(lambda: torch.mm(a, a, out=b)) / 1e12, 1)
        told["copy_gb_per_s"] = round(2 * a.nbytes / _mean_seconds(lambda: b.copy_(a)) / 1e9, 1)
    return told


def _mean_seconds(work: Callable[[], Any], times: int = 10) -> float:
    work()
    begun = mark()
    for _ in range(times):
        work()
    return seconds(begun, mark()) / times


def draw(path: Path) -> int:
    """Write a plot of each part that has one, beside a report: <report>_<part>.png.  Returns 0."""
    told = json.loads(path.read_text("utf-8"))["parts"]
    for part in PARTS:
        if part.script in PLOTS and "report" in told.get(part.name, {}):
            plot = path.with_name(f"{path.stem}_{_file_name(part.name)}.png")
            PLOTS[part.script](told[part.name]["report"], plot)
            print(plot)
    return 0


def pinned() -> dict[str, str]:
    """What requirements/gpu.txt pins: module -> requirement."""
    lines = [line for line in PINS.read_text("utf-8").splitlines() if not line.startswith("#")]
    return {line.split("==")[0].replace("-", "_"): line for line in lines}


def fetch_wheels(folder: Path) -> int:
    """Download what a Linux machine with Python 3.12 and torch lacks.  Returns pip's exit status, 1 if too much."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command += ["--quiet", "--disable-pip-version-check", "--python-version", "3.12", "--implementation"]
    linux = [f"--platform=manylinux_2_{n}_x86_64" for n in (28, 27, 17)] + ["--platform=manylinux2014_x86_64"]
    others = pinned()
    # of this one the form without its compiled kernels, 0.1 instead of 28 MiB: nothing here is quantised by it
    plain = others.pop("comfy_kitchen")
    for line in (["cp", *linux, *others.values()], ["py", "--abi=none", "--platform=any", plain]):
        status = subprocess.run([*command, *line], check=False).returncode
        if status:
            return status
    size = sum(file.stat().st_size for file in folder.glob("*.whl")) / MIB
    print(f"{folder}: {len(list(folder.glob('*.whl')))} wheels, {size:.1f} MiB of at most {WHEELS_MIB}")
    return int(size > WHEELS_MIB)


def _environment(options: argparse.Namespace) -> dict[str, str]:
    """That of the parts: no GPU in a dry run, and packages from wheels where they are missing."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if options.dry_run:
        environment |= {"CUDA_VISIBLE_DEVICES": ""}
    missing = [wheel for name, wheel in pinned().items() if importlib.util.find_spec(name) is None]
    if missing and options.wheels is None:
        print(f"missing here: {', '.join(missing)}; see --fetch-wheels and --wheels")
    elif missing:
        site = PACK / "build" / "site"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--upgrade"]
        command += ["--find-links", str(options.wheels), "--target", str(site), *missing]
        if subprocess.run(command, check=False).returncode:  # pip has told which
            raise SystemExit(f"{options.wheels}: expected a wheel of each, found some missing; see --fetch-wheels")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return environment


def _print_plan(plan: list[tuple[Part, list[str]]], report: Report, host: Path | None, minutes: float) -> None:
    rows, total = [], 0
    for part, arguments in plan:
        done = report.done(part, arguments)
        total += 0 if done else part.seconds
        rows.append({"part": part.name, "expected": "done before" if done else f"{part.seconds} s", "what": part.what})
    where = host or "nothing, since no ComfyUI was found"
    show(f"{report.machine['device']}, torch {report.machine['torch']}; sampling on {where}", rows)
    print(f"about {total} s on an H100, at most {minutes:g} minutes; all goes into {report.path}", flush=True)


def _run(part: Part, arguments: list[str], environment: dict[str, str], limit: float) -> dict[str, Any]:
    """Do one part.  A script that is stopped writes the rows that it has."""
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "report.json", Path(folder) / "log"
        command = [sys.executable, "-m", f"benchmarks.{part.script}", *arguments, "--out", str(out)]
        begun, state, reason = time.monotonic(), "done", ""
        with log.open("w") as writing:
            process = subprocess.Popen(command, cwd=PACK, env=environment, stdout=writing, stderr=subprocess.STDOUT)
            try:
                status = process.wait(limit)
            except (subprocess.TimeoutExpired, KeyboardInterrupt) as stop:
                over = isinstance(stop, subprocess.TimeoutExpired)
                state, reason = ("cut short", f"stopped after {limit:.0f} s") if over else ("interrupted", "by Ctrl+C")
                status = _stopped(process)
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        told = {"seconds": round(time.monotonic() - begun, 1), "command": f"benchmarks.{part.script}"}
        if out.exists():
            told["report"] = json.loads(out.read_text("utf-8"))
        if state == "done" and (status or "report" not in told):
            state, reason = "failed", lines[-1][:300] if lines else f"exit status {status}, and no report"
        if state != "done":
            told |= {"reason": reason, "log": lines[-30:]}
        return {"state": state, **told}


def _stopped(process: subprocess.Popen) -> int:
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _file_name(card: str) -> str:
    return re.sub("[^A-Za-z0-9]+", "_", card).strip("_")


if __name__ == "__main__":
    sys.exit(main())
