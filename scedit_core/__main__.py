"""python -m scedit_core inspect | convert | merge | prune | annotators: tuner files, and detectors of conditions.

Also as `python FOLDER/scedit_core ...`, from anywhere and with Python's embedded builds for Windows, which look for no
module in the current folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

if not __package__:  # called as a folder
    import runpy

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    runpy.run_module("scedit_core", run_name="__main__", alter_sys=True)  # which exits

from .conditions.annotators import ANNOTATORS, default_folder, download
from .converting import TARGETS, convert_tuner, nil_blocks, without_blocks
from .errors import SCEditError
from .files import inspect_tuner, load_tuner, save_tuner, tuner_names
from .layout import FAMILY_TITLES
from .locations import loose_files
from .merging import merge_sc_tuners

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_COLUMNS = ("kind", "format", "family", "blocks", "hidden", "parameters", "dtype", "file")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.  Returns the exit code: 0, or 2 for bad input, which is told in one sentence."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # a name of a file may have letters that a terminal's code page has not
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return options.run(options)
    except SCEditError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def inspect(options: argparse.Namespace) -> int:
    """Print what each file is; continues after a bad one and then returns 2."""
    found, code = [], 0
    for path in [each for given in options.paths for each in loose_files(given) or [given]]:
        try:
            found += [inspect_tuner(path, name) | {"name": name} for name in tuner_names(path)]
        except SCEditError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
    if options.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    elif found:
        rows = [_COLUMNS, *(_row(tuner) for tuner in found)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return code


def convert(options: argparse.Namespace) -> int:
    """Convert a file and print the digest of its tensors before and after."""
    dtype = _DTYPES.get(options.dtype)
    done = convert_tuner(options.source, options.target, options.to, dtype, options.name)
    print(f"wrote {done.path}\ntensors before  sha256 {done.before}\ntensors after   sha256 {done.after}")
    return 0


def merge(options: argparse.Namespace) -> int:
    """Merge SC-Tuners into the one whose edit is the weighted sum of theirs."""
    weights = options.weights or [1.0] * len(options.sources)
    if len(weights) != len(options.sources):
        raise SCEditError(
            f"merge: expected a weight for each of {len(options.sources)} files, found {len(weights)}; give one each"
        )
    pairs = [(load_tuner(path), weight) for path, weight in zip(options.sources, weights, strict=True)]
    merged = merge_sc_tuners(pairs)
    print(f"wrote {save_tuner(merged, options.output, dtype=_DTYPES.get(options.dtype))}")
    return 0


def prune(options: argparse.Namespace) -> int:
    """Drop the named blocks, or without names those whose edit is nil."""
    tuner = load_tuner(options.source)
    dropped = nil_blocks(tuner) if options.blocks is None else options.blocks
    pruned = without_blocks(tuner, dropped)
    print(f"dropped blocks {sorted(set(dropped)) or 'none'}\nwrote {save_tuner(pruned, options.target)}")
    return 0


def annotators(options: argparse.Namespace) -> int:
    """Print which detectors are installed and where to take the others; with --download, fetch one first."""
    folder = options.folder or default_folder()
    if options.download is not None:
        print(f"wrote {download(options.download, folder)}")
    print(f"in {folder}")
    for each in ANNOTATORS.values():
        path = each.weight_file([folder])
        state = f"installed, {path.name}" if path else f"missing, {each.megabytes} MB from {each.repository}"
        print(f"{each.name:<24}  {each.condition:<12}  {each.licence:<22}  {state}")
    return 0


def _row(tuner: dict) -> tuple[str, ...]:
    hidden = sorted(set(tuner["hidden"]))
    place = tuner["path"] + (f" [{tuner['name']}]" if tuner["name"] else "")
    return (
        {"sc": "SC-Tuner", "csc": "CSC-Tuner"}[tuner["kind"]],
        tuner["format"],
        FAMILY_TITLES.get(tuner["family"], tuner["family"]),
        f"{len(tuner['blocks'])} of {len(tuner['channels'])}",
        "/".join(str(h) for h in hidden[:4]) + ("/..." if len(hidden) > 4 else ""),
        f"{tuner['parameters'] / 1e6:.2f} M",
        tuner["dtype"],
        place.encode("utf-8", "backslashreplace").decode("utf-8"),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scedit_core", description="Tuner files and detectors of SCEdit.")
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser("inspect", help="what files are, from their headers alone")
    command.add_argument("paths", nargs="+", metavar="PATH", help="a tuner file or folder, of any supported format")
    command.add_argument("--json", action="store_true", help="everything, as JSON, in place of a table")
    command.set_defaults(run=inspect)

    command = commands.add_parser("convert", help="from any format to another, without loss")
    command.add_argument("source", metavar="IN", help="a tuner file or folder, of any supported format")
    command.add_argument("target", metavar="OUT", help="a file, or a folder for the authors' packages")
    command.add_argument("--to", choices=TARGETS, required=True)
    command.add_argument("--dtype", choices=sorted(_DTYPES), help="of the new file; that of the old one by default")
    command.add_argument("--name", help="which tuner, where the file holds several")
    command.set_defaults(run=convert)

    command = commands.add_parser("merge", help="several SC-Tuners as one, exactly")
    command.add_argument("sources", nargs="+", metavar="IN")
    command.add_argument("-o", "--output", required=True, metavar="OUT", help="a .safetensors file")
    command.add_argument("--weights", nargs="+", type=float, metavar="W", help="a factor for each file, 1 by default")
    command.add_argument("--dtype", choices=sorted(_DTYPES), help="of the new file; float32 where weights are not 1")
    command.set_defaults(run=merge)

    command = commands.add_parser("prune", help="drop blocks whose edit is nil, or those named")
    command.add_argument("source", metavar="IN")
    command.add_argument("target", metavar="OUT", help="a .safetensors file")
    command.add_argument("--blocks", nargs="+", type=int, metavar="B", help="blocks to drop, 0 is the deepest")
    command.set_defaults(run=prune)

    command = commands.add_parser("annotators", help="the detectors of conditions: what is installed, what is missing")
    command.add_argument("--folder", metavar="PATH", help="where detectors lie; models/scedit_annotators by default")
    command.add_argument("--download", metavar="NAME", help="fetch this one")
    command.set_defaults(run=annotators)
    return parser


if __name__ == "__main__":
    sys.exit(main())
