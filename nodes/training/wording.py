"""What the trainer's sentences say on a node: its widgets, where the command line has keys and options."""

from __future__ import annotations

import re

_RESUMING = (
    (r"the same command without --resume goes on from (\S+)", r"queue again to resume from \1"),
    (
        r"start anew with --resume never, which keeps the earlier run, or go on with --resume and the path of this "
        r"checkpoint",
        "or turn resume off to begin anew, which keeps the earlier run",
    ),
    (r"(?:start anew with|use) --resume never", "turn resume off to begin anew"),
    (r"go on with --resume \S+", "turn resume off and queue again to begin anew"),
    (
        r"is kept elsewhere, and --resume (\S+) goes on from it",
        r"is kept in \1; move that folder beside the other checkpoints, and queueing again resumes from it",
    ),
)
_WIDGETS = (
    "steps|batch|accumulate|optimizer|learning_rate|precision|seed|folder|resolution|caption|ratio|kernel|start_from|"
    "hold_out"
)
_KEYS = (
    (rf"\b(?:loop|data|tuner|validation)\.({_WIDGETS})\b", r"\1"),
    (r" \(validation\.images\)", ""),
    (r"set `(?:run|output)` to another \w+|choose another folder with `run`", "choose another name"),
)


def on_the_node(sentence: str, has_keys: bool = False) -> str:
    """The sentence for a node; has_keys: one whose YAML file has the trainer's keys beside the widgets."""
    for said, instead in _RESUMING if has_keys else _RESUMING + _KEYS:
        sentence = re.sub(said, instead, sentence)
    return sentence
