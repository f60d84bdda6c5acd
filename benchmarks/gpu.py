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

A machine with torch for CUDA and Python 3.12 but no network gets the rest from wheels: --fetch-wheels downloads them,
at most 40 MiB, and --wheels installs them into build/site, for this script alone.  --dry-run does every script at a
tiny size on the CPU, and writes into build/gpu.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# What is needed besides torch, torchvision, transformers, accelerate, peft, rich and matplotlib: module -> wheel.
# Without the wheel of `av`, which reads videos and is larger than all others together, a stand-in is enough.
WHEELS = {
    "diffusers": "diffusers==0.42.1",
    "importlib_metadata": "importlib_metadata==10.2.0",
    "lazy_importer": "lazy-importer==0.1.0",
    "pydantic": "pydantic==2.14.3",
    "pydantic_core": "pydantic_core==2.50.4",
    "annotated_types": "annotated-types==0.8.0",
    "typing_inspection": "typing-inspection==0.4.5",
    "einops": "einops==0.8.2",
    "safetensors": "safetensors==0.8.0",
    "torchsde": "torchsde==0.2.6",
    "trampoline": "trampoline==0.1.2",
    "comfy_aimdo": "comfy-aimdo==0.4.10",
    "comfy_kitchen": "comfy-kitchen==0.2.22",
}
WHEELS_MIB = 40
_MACHINE = """
import json, platform, sys, torch
gpu = torch.cuda.is_available()
found = {"card": torch.cuda.get_device_name() if gpu else None, "torch": torch.__version__, "cuda": torch.version.cuda,
         "python": platform.python_version(), "system": platform.platform(terse=True)}
if gpu:
    told = torch.cuda.get_device_properties(0)
    found |= {"memory_mib": told.total_memory >> 20, "capability": f"{told.major}.{told.minor}"}
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b = torch.empty_like(a)
    def seconds(work, times=10):
        work(), torch.cuda.synchronize()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        marks[0].record()
        for _ in range(times): work()
        marks[1].record(), torch.cuda.synchronize()
        return marks[0].elapsed_time(marks[1]) / 1000 / times
    found |= {"matmul_tflops": round(2 * 8192**3 / seconds(lambda: torch.mm(a, a, out=b)) / 1e12, 1),
              "copy_gb_per_s": round(2 * a.nbytes / seconds(lambda: b.copy_(a)) / 1e9, 1)}
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Part:
    """One command: a script of this folder.

    tiny:    arguments in place of `arguments` in a dry run, which leaves the part out where there are none.
    seconds: what it is expected to take on an H100; it is stopped after twice that.
    on_host: whether it runs on a ComfyUI checkout.
    plot:    what of benchmarks/plots.py draws its report.
    """

    name: str
    what: str
    script: str
    arguments: str
    tiny: str
    seconds: int
    on_host: bool = False
    plot: str = ""


_SAMPLED = '--variants SC-Tuner CSC-Tuner "two CSC-Tuners" "four CSC-Tuners" T2I-Adapter ControlNet-LLLite ControlNet'
_FEW_SAMPLED = '--variants SC-Tuner CSC-Tuner "four CSC-Tuners" ControlNet'
_LEAN, _LEANEST = "'frozen layers'", "'frozen layers, checkpointing, 8 bits'"
_MEASURED = "--measure-only --steps 5 --savings"
_PAIR = f"{_MEASURED} {_LEAN} --methods SC-Tuner 'LoRA r64'"
# In order of what is wanted first.  A dry run does each script once, with all models: most of its time is importing.
PARTS = [
    Part(
        "parity", "whether half precision, 8 bits, compiling and fused updates agree with the CPU", "parity",
        "--kinds sc csc", "--kinds csc", 40,
    ),
    Part(
        "training SD 1.5", "an update at 512 px, batches 1, 4 and 16, eager: peak and steps per second", "training",
        f"--models sd15 --batches 1 4 16 {_MEASURED} {_LEAN} 'frozen layers, checkpointing' "
        "--methods SC-Tuner 'LoRA r64' CSC-Tuner ControlNet 'LoRA r4'",
        f"--models sd15 sdxl --tiny --measure-only --steps 1 --batches 1 --savings {_LEAN} --methods SC-Tuner "
        "ControlNet --channels-last", 80, plot="training",
    ),
    Part(
        "training SDXL", "an update at 1024 px, batches 1 and 4, eager: peak and steps per second", "training",
        f"--models sdxl --batches 1 4 {_MEASURED} {_LEAN} {_LEANEST} "
        "--methods SC-Tuner 'LoRA r64' CSC-Tuner ControlNet", "", 80, plot="training",
    ),
    Part(
        "sampling SD 1.5", "a step at 512 px, batch 2, fp16, eager", "inference",
        f"--model sd15 --dtype float16 --steps 5 --rounds 4 {_SAMPLED}",
        "--model sd15 --dtype float32 --width 32 --latent 16 --steps 2 --rounds 1 "
        "--variants SC-Tuner CSC-Tuner ControlNet-LLLite ControlNet --channels-last",
        35, on_host=True, plot="sampling",
    ),
    Part(
        "training SD 1.5, compiled", "the same at batch 4 with compiled blocks", "training",
        f"--models sd15 --batches 4 --compile {_PAIR}", "", 50, plot="training",
    ),
    Part(
        "training SDXL, compiled", "the same at batch 1 with compiled blocks", "training",
        f"--models sdxl --batches 1 --compile {_PAIR}", "", 60, plot="training",
    ),
    Part(
        "sampling SDXL", "a step at 1024 px, batch 2, fp16, eager", "inference",
        f"--model sdxl --dtype float16 --steps 5 --rounds 2 {_SAMPLED}", "", 45, on_host=True, plot="sampling",
    ),
    Part(
        "parity in ComfyUI", "whether sampling agrees with the CPU: half precision, compiled, dynamic VRAM",
        "parity", "--in-comfyui", "--in-comfyui --paths float16", 25, on_host=True,
    ),
    Part(
        "training on the MODEL", "Train SCEdit on Model beside core's Train LoRA, SD 1.5 at 512 px", "train_in_host",
        "--model sd15 --latent 64 --stored bf16 --steps 6 --batches 1 4",
        "--model sd15 --latent 16 --width 32 --rank 4 --steps 3 --batches 1", 35, on_host=True,
    ),
    Part(
        "sampling SD 1.5, compiled", "the same through ComfyUI's TorchCompileModel", "inference",
        f"--model sd15 --dtype float16 --steps 5 --rounds 2 --compile {_FEW_SAMPLED}", "", 40, on_host=True,
        plot="sampling",
    ),
    Part(
        "training SD 1.5, channels last", "whether that order of weights is faster, at batch 4", "training",
        f"--models sd15 --batches 4 --channels-last {_PAIR}", "", 15,
    ),
    Part(
        "training SD 1.5, CUDA graphs", "whether blocks as CUDA graphs hold and are faster, at batch 1", "training",
        f"--models sd15 --batches 1 --compile cudagraphs {_PAIR}", "", 15,
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
    options = _options()
    if options.fetch_wheels:
        return fetch_wheels(options.fetch_wheels)
    if options.draw:
        return draw(options.draw)
    begun = time.monotonic()
    environment = _environment(options)
    machine = {"card": "dry run", "torch": importlib.metadata.version("torch")}
    if not options.dry_run:
        probe = [sys.executable, "-c", _MACHINE]
        machine = json.loads(subprocess.run(probe, env=environment, check=True, stdout=subprocess.PIPE).stdout)
    card = machine["card"]
    if card is None:
        print(
            "gpu: expected a GPU that torch can use, found none; --dry-run tries everything at a tiny size on the CPU"
        )
        return 2
    report = Report(options.out / f"{_file_name(card)}.json", machine)
    host = _host(options)
    chosen = [part for part in PARTS if options.parts is None or part.name in options.parts]
    chosen = [part for part in chosen if part.tiny or not options.dry_run]
    plan = [(part, _arguments(part, options.dry_run, host)) for part in chosen]
    _print_plan(plan, report, card, host, options)
    for part, arguments in plan:
        if report.done(part, arguments):
            continue
        if part.on_host and host is None:
            report.tell(part, state="left out", reason="it needs a ComfyUI checkout, and none was found; see --host")
            continue
        left = 60 * options.minutes - (time.monotonic() - begun)
        if left < min(part.seconds / 4, 30):
            report.tell(
                part, state="left out", reason=f"{left:.0f} s of {options.minutes} minutes were left; run again"
            )
            continue
        told = _run(part, arguments, environment, left if options.dry_run else min(left, 2 * part.seconds))
        report.tell(part, arguments=arguments, **told)
        print(f"{part.name}: {told['state']} in {told['seconds']} s {told.get('reason', '')}", flush=True)
        if told["state"] == "interrupted":
            break
    draw(report.path)
    print(f"{time.monotonic() - begun:.0f} s in all")
    for name, told in report.parts.items():
        print(f"{name:<32}{told['state']:>12}  {told.get('reason', '')}")
    return int(any(told["state"] in ("failed", "interrupted") for told in report.parts.values()))


def draw(path: Path) -> int:
    """Write a plot of each part that has one, beside a report: <report>_<part>.png.  Returns 0."""
    from benchmarks import plots

    told = json.loads(path.read_text("utf-8"))["parts"]
    for part in PARTS:
        if part.plot and "report" in told.get(part.name, {}):
            plot = path.with_name(f"{path.stem}_{_file_name(part.name)}.png")
            getattr(plots, part.plot)(told[part.name]["report"], plot)
            print(plot)
    return 0


def fetch_wheels(folder: Path) -> int:
    """Download what a Linux machine with Python 3.12 and torch lacks.  Returns pip's exit status, 1 if too much."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command += ["--quiet", "--disable-pip-version-check", "--python-version", "3.12", "--implementation", "cp"]
    linux = [f"manylinux_2_{n}_x86_64" for n in (28, 27, 17)] + ["manylinux2014_x86_64"]
    binary = [*command, *(word for name in linux for word in ("--platform", name))]
    # of this one the form without its compiled kernels, 0.1 instead of 28 MiB: nothing here is quantised by it
    plain = [*command[:-1], "py", "--abi", "none", "--platform", "any"]
    pure = WHEELS["comfy_kitchen"]
    for line in ([*binary, *(w for w in WHEELS.values() if w != pure)], [*plain, pure]):
        status = subprocess.run(line, check=False).returncode
        if status:
            return status
    size = sum(file.stat().st_size for file in folder.glob("*.whl")) / 2**20
    print(f"{folder}: {len(list(folder.glob('*.whl')))} wheels, {size:.1f} MiB of at most {WHEELS_MIB}")
    return int(size > WHEELS_MIB)


def _environment(options: argparse.Namespace) -> dict[str, str]:
    """That of the parts: no GPU in a dry run, and packages from wheels where they are missing."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if options.dry_run:
        environment |= {"CUDA_VISIBLE_DEVICES": ""}
    missing = [wheel for name, wheel in WHEELS.items() if importlib.util.find_spec(name) is None]
    if missing and options.wheels is None:
        print(f"missing here: {', '.join(missing)}; see --fetch-wheels and --wheels")
    elif missing:
        site = ROOT / "build" / "site"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--upgrade"]
        command += ["--find-links", str(options.wheels), "--target", str(site), *missing]
        if subprocess.run(command, check=False).returncode:  # pip has told which
            raise SystemExit(f"{options.wheels}: expected a wheel of each, found some missing; see --fetch-wheels")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site.resolve()), os.environ.get("PYTHONPATH")]))
    return environment


def _host(options: argparse.Namespace) -> Path | None:
    """The ComfyUI checkout to sample on.  Ends the script where one is named that is none."""
    from benchmarks.frame import found_host, host_version

    if options.no_host:
        return None
    if options.host:
        host_version(options.host)
        return options.host.resolve()
    return found_host()


def _arguments(part: Part, dry: bool, host: Path | None) -> list[str]:
    words = shlex.split(part.tiny if dry else part.arguments)
    if part.on_host:
        words += ["--host", str(host)]
    return words


def _print_plan(plan: list, report: Report, card: str, host: Path | None, options: argparse.Namespace) -> None:
    print(f"{card}, torch {report.machine['torch']}; sampling on {host or 'nothing, since no ComfyUI was found'}")
    print(f"{'part':<32}{'expected':>9}  what")
    for part, arguments in plan:
        state = "done before" if report.done(part, arguments) else f"{part.seconds} s"
        print(f"{part.name:<32}{state:>9}  {part.what}")
    total = sum(part.seconds for part, arguments in plan if not report.done(part, arguments))
    print(f"about {total} s on an H100, at most {options.minutes:g} minutes; all goes into {report.path}", flush=True)


def _run(part: Part, arguments: list[str], environment: dict[str, str], limit: float) -> dict[str, Any]:
    """Do one part.  A script that is stopped writes the rows that it has."""
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "report.json", Path(folder) / "log"
        command = [sys.executable, "-m", f"benchmarks.{part.script}", *arguments, "--out", str(out)]
        begun, state, reason = time.monotonic(), "done", ""
        with log.open("w") as writing:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=writing, stderr=subprocess.STDOUT)
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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--host", type=Path, help="a ComfyUI checkout")
    parser.add_argument("--no-host", action="store_true", help="leave out what needs one")
    parser.add_argument("--draw", type=Path, metavar="JSON", help="draw the plots of that report, and do nothing else")
    parser.add_argument("--wheels", type=Path, help="a folder that --fetch-wheels has filled")
    parser.add_argument("--fetch-wheels", type=Path, metavar="FOLDER", help="download them, and do nothing else")
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS], help="all by default")
    parser.add_argument("--minutes", type=float, default=9, help="when to stop")
    parser.add_argument("--out", type=Path, help="folder of the report, benchmarks/results by default")
    parser.add_argument("--dry-run", action="store_true", help="at a tiny size on the CPU")
    options = parser.parse_args()
    options.out = options.out or ROOT / ("build/gpu" if options.dry_run else "benchmarks/results")
    return options


if __name__ == "__main__":
    sys.exit(main())
