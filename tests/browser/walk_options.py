"""What the walks over ComfyUI's real page are told on the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def walk_parser(description: str) -> argparse.ArgumentParser:
    """HOST, OUT and --frontend."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host", type=Path, help="a ComfyUI checkout")
    parser.add_argument("out", type=Path, help="a folder for the screenshots")
    parser.add_argument(
        "--frontend", type=Path, help="the folder `static` of another comfyui-frontend-package than the one installed"
    )
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What is given, with `options` for the server; OUT is there then, and the host can be imported, on the CPU."""
    given = parser.parse_intermixed_args()  # names may come after the options
    given.out.mkdir(parents=True, exist_ok=True)
    given.options = ["--front-end-root", str(given.frontend)] if given.frontend else []
    sys.path.insert(0, str(given.host))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    return given
