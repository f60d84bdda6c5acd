"""Command line: python -m training new | train CONFIG.yaml | check CONFIG.yaml | demo | demo-base."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

# A stop file counts from here on, while the libraries are still loading; a program that starts the trainer, and has
# removed what was left of earlier runs, says since when it may ask for an end.
_SINCE = float(os.environ.get("SCEDIT_STOP_SINCE", time.time()))

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # While they load, Ctrl+C ends at once: nothing has begun.  A run listens for itself.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns 0, or 2 after one sentence on bad input."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Train SCEdit tuners.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a tuner as a YAML file says")
    train.add_argument(
        "config", type=Path, nargs="+", help="several, each with a teacher of its own, are trained in one pass"
    )
    train.add_argument(
        "--resume",
        default="auto",
        metavar="WHERE",
        help="auto: resume from the newest checkpoint where there is one (default); latest: insist on one; "
        "never: begin anew, the earlier run is kept; or a path, whatever its settings: a checkpoint, a run folder, "
        "or the tuner's file",
    )
    train.add_argument("--cache-only", action="store_true", help="encode pictures and captions, then stop")
    train.add_argument("--allow-download", action="store_true", help="fetch missing parts of the base from its hub")
    check = commands.add_parser("check", help="read everything a YAML file names, run two steps, draw what is trained")
    check.add_argument("config", type=Path)
    new = commands.add_parser("new", help="write a YAML file by a few questions, and check it")
    new.add_argument("config", type=Path, nargs="?", help="the file to write; beside the pictures where none is named")
    new.add_argument("--base", help="a checkpoint file or a diffusers folder")
    new.add_argument("--folder", help="of the pictures")
    new.add_argument("--learn", help="style, subject, canny, depth, ..., or own_hints")
    new.add_argument("--hints", help="the folder of own_hints")
    new.add_argument("--memory", metavar="GIB", help="of the GPU that will train, or none")
    new.add_argument("--no-check", action="store_true", help="write the file and stop")
    demo = commands.add_parser("demo", help="train a style on the embedded base and draw a contact sheet")
    demo.add_argument("--base", type=Path, default=Path(__file__).parent.parent / "demo", help="the demo folder")
    demo.add_argument("--output", type=Path, default=Path("demo_output"), help="where pictures and numbers go")
    demo.add_argument("--measure", action="store_true", help="also score held-out prompts in three styles, in minutes")
    base = commands.add_parser("demo-base", help="train the embedded base, its judge, its canny and style tuners")
    base.add_argument("--work", type=Path, default=Path("build/base"), help="checkpoints; a restart resumes from them")
    base.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "demo", help="the demo folder")
    base.add_argument("--start", type=Path, help="an earlier demo folder to begin with; without it, from nothing")
    for stage in ("vae", "decoder", "judge", "base", "control"):
        base.add_argument(f"--{stage}-steps", type=int, metavar="N", help="instead of the recipe's number")
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # captions and names of files that the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    if options.command == "demo":
        print("loading PyTorch and diffusers", flush=True)
    from scedit_core import SCEditError  # here, since PyTorch takes seconds to load

    try:
        return _run(options)
    except SCEditError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped at once", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    from .config_file import load_config

    if options.command == "train" and len(options.config) > 1:
        from scedit_core.errors import ConfigError

        from .several import train_several

        if options.cache_only:
            raise ConfigError("--cache-only: expected one configuration, found several; fill their caches one by one")
        configs = [load_config(path) for path in options.config]
        train_several(configs, start=options.resume, allow_download=options.allow_download, since=_SINCE)
    elif options.command == "train":
        from .loop import train

        train(
            load_config(options.config[0]),
            start=options.resume,
            cache_only=options.cache_only,
            allow_download=options.allow_download,
            since=_SINCE,
        )
    elif options.command == "check":
        from .check import run_check

        return run_check(load_config(options.config))
    elif options.command == "new":
        from .asking import ask_and_write

        told = (options.base, options.folder, options.learn, options.hints, options.memory)
        path = ask_and_write(options.config, *told)
        if not options.no_check:
            from .check import run_check

            return run_check(load_config(path))
    elif options.command == "demo":
        from .demo.run import run_demo

        run_demo(options.base, options.output, options.measure)
    else:
        from .demo.build import Steps, build_demo

        stages = ("vae", "decoder", "judge", "base", "control")
        given = {stage: getattr(options, f"{stage}_steps") for stage in stages}
        steps = Steps(**{stage: count for stage, count in given.items() if count is not None})
        build_demo(options.work, options.output, steps, options.start)
    return 0


if __name__ == "__main__":
    sys.exit(main())
