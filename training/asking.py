"""`python -m training new`: a first configuration by a few questions; what can be found out is not asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from scedit_core.errors import ConfigError

from .config_file import load_config
from .proposing import (
    LEARNABLE,
    OWN_HINTS,
    STYLE,
    SUBJECT,
    Base,
    Proposal,
    bases_around,
    gpu_memory,
    known_base,
    look_at,
    propose,
)

_MEANINGS = {
    STYLE: "how pictures look",
    SUBJECT: "one thing, animal or person, in any surroundings",
    "canny": "a control by edges",
    "soft_edge": "a control by soft edges (HED), or sketches",
    "depth": "a control by depth",
    "pose": "a control by poses",
    "segmentation": "a control by classes",
    "color_palette": "a control by colours",
    "completion": "a control that completes pictures",
    OWN_HINTS: "a control by hints of your own, in a folder",
}
_WITHOUT_ONE = "a photo of zwx"  # what a subject without captions is called


class Dialogue:
    """Asks, unless an answer was given beforehand.  ask: `input`, or for tests what stands in for it."""

    def __init__(self, ask: Callable[[str], str] = input, say: Callable[[str], None] = print) -> None:
        self._ask, self.say = ask, say

    def answer(self, question: str, option: str, given: str | None, default: str | None = None) -> str:
        """An answer; `default` where nothing is typed.  Raises ConfigError where nobody answers."""
        while not given:
            try:
                given = self._ask(f"{question}{f' [{default}]' if default else ''}: ").strip() or default
            except EOFError:
                raise ConfigError(
                    f"new: expected an answer to {question!r}, found the end of what was typed; give it as {option}"
                ) from None
        return given

    def choice(self, question: str, option: str, given: str | None, among: Sequence[str]) -> str:
        """One of `among`, by its number or as it is."""
        while True:
            said = self.answer(question, option, given)
            if said in among:
                return said
            if said.isdigit() and 1 <= int(said) <= len(among):
                return among[int(said) - 1]
            if given:
                raise ConfigError(f"{option}: expected one of {', '.join(among)}, found {said}; correct it")
            self.say(f"expected a number from 1 to {len(among)}, found {said}")


def ask_and_write(
    file: Path | None = None,
    base: str | None = None,
    folder: str | None = None,
    learn: str | None = None,
    hints: str | None = None,
    memory: str | None = None,
    dialogue: Dialogue | None = None,
) -> Path:
    """Ask what is not given, write a commented configuration that `check` can be run on, and return its path.

    memory: GiB of the GPU that will train, "none" for the processor; looked up where there is a GPU here.
    An existing file is not written over.  Raises SCEditError where an answer cannot be used.
    """
    talk = dialogue or Dialogue()
    model = _base(talk, base)
    pictures = Path(talk.answer("Folder with the pictures", "--folder", folder)).expanduser().absolute()
    if not pictures.is_dir():
        raise ConfigError(f"--folder: expected a folder with pictures, found none at {pictures}; correct it")
    if learn is None:
        talk.say("What shall be learnt?")
        for number, each in enumerate(LEARNABLE, 1):
            talk.say(f"  {number:2} {each}: {_MEANINGS[each]}")
    learn = talk.choice("Number", "--learn", learn, LEARNABLE)
    own = None
    if learn == OWN_HINTS:
        own = (
            Path(talk.answer("Folder with the hints, named as the pictures", "--hints", hints)).expanduser().absolute()
        )
    found = look_at(pictures, learn, own)
    talk.say(f"{found.count} pictures, {found.captioned} with a caption, {found.side} px in the middle")
    room = gpu_memory() if memory is None else None
    if room is None:
        said = talk.answer("Memory of the GPU that will train, in GiB, or none", "--memory", memory, "none")
        room = None if said.lower() == "none" else _gib(said)
    made = propose(model, learn, pictures, found, room, own)
    file = file or pictures.parent / f"{pictures.name}-{learn}.yaml"
    path = _free(file if file.suffix in (".yaml", ".yml") else file.with_name(f"{file.name}.yaml"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text_of(made, path.stem), "utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a place for the configuration, found none ({error.strerror}); name another file"
        ) from error
    load_config(path)
    talk.say(f"written: {path}")
    return path


def text_of(made: Proposal, name: str) -> str:
    """The configuration as YAML, each line with its reason."""
    control, why = made.kind == "csc", made.why
    every = max(50, made.steps // 8)
    lines = [
        f"# {'A control by ' + made.learn if control else 'A ' + made.learn}, on {made.base.title}.",
        "#",
        f"#   python -m training check {name}.yaml     shows what will be trained on",
        f"#   python -m training train {name}.yaml     trains; the same command again resumes",
        "#",
        "# Every key there is stands in training/examples/style_sd15.yaml and canny_sd15.yaml.",
        "",
        f"base: {_quoted(made.base.path)}",
        f"output: {_quoted(f'{name}.safetensors')}   # goes to ComfyUI/models/scedit",
        f"tuner: {{kind: {made.kind}}}   # {'csc: a control' if control else 'sc: a style or a subject'}",
        "",
        "data:",
        f"  folder: {_quoted(made.folder)}   # with everything below it",
        f"  resolution: {made.resolution}   # {why['resolution']}",
        f"  captions: {made.captions}   # {why['captions']}",
    ]
    if made.learn == SUBJECT and made.captions == "none":
        lines += [f"  caption: {_quoted(_WITHOUT_ONE)}   # say what is on them, named with a rare word of your own"]
    if made.learn == OWN_HINTS:
        lines += ["  condition: {type: custom, name: own}   # name: what the hints show, for the tuner's file"]
        lines += [f"  hints: {_quoted(made.hints)}   # named as the pictures"]
    elif control:
        lines += [f"  condition: {{type: {made.learn}}}   # hints are made from the pictures"]
    if control:
        lines += [
            "",
            "objective:",
            "  caption_dropout: 0.5   # with half of the captions gone, the hint has to be read",
        ]
    else:
        lines += ["", "objective:", "  min_snr_gamma: 5.0   # learns faster"]
    lines += [
        "",
        "loop:",
        f"  steps: {made.steps}   # {why['steps']}",
        f"  batch: {made.batch}   # {why['memory']}",
        f"  accumulate: {made.accumulate}   # batches in an update, which learns as one large batch does",
    ]
    if made.eight_bit:
        lines += ["  # optimizer: adamw8bit   # for still less memory; needs the package bitsandbytes"]
    lines += [
        "  # learning_rate: 1.0e-4   # the default; twice as much learns faster and holds less steady",
        "",
        f"memory: {{checkpointing: {_yes(made.checkpointing)}, fp8: {_yes(made.fp8)}}}   # time given for memory",
        "",
        f"saving: {{every: {every}, tuners: {every}}}   # checkpoints, and tuner files to choose from in ComfyUI",
        f"previews: {{every: {every}, first: true}}",
        f"validation: {{every: {every}, first: true, hold_out: {made.hold_out}}}   # pictures kept out of training",
    ]
    return "\n".join(lines) + "\n"


def _base(talk: Dialogue, given: str | None) -> Base:
    if given:
        return known_base(Path(given))
    around = bases_around(Path.cwd())
    if not around:
        return known_base(Path(talk.answer("Base model, a checkpoint file or a diffusers folder", "--base", None)))
    talk.say("Which base model?")
    for number, each in enumerate(around, 1):
        talk.say(f"  {number:2} {each.title}")
    while True:
        said = talk.answer("Number, or the path of another one", "--base", None, "1" if len(around) == 1 else None)
        if said.isdigit() and 1 <= int(said) <= len(around):
            return around[int(said) - 1]
        if not said.isdigit():
            return known_base(Path(said))
        talk.say(f"expected a number from 1 to {len(around)}, found {said}")


def _gib(said: str) -> float:
    try:
        room = float(said.lower().removesuffix("gib").removesuffix("gb"))
    except ValueError:
        room = 0.0
    if not 1 <= room <= 1024:
        raise ConfigError(f"--memory: expected GiB such as 12, or none, found {said}; correct it")
    return room


def _free(path: Path) -> Path:
    """The path, or one with a number where there is such a file already."""
    number, found = 2, path
    while found.exists():
        found, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    return found


def _quoted(value: Path | str) -> str:
    return json.dumps(str(value), ensure_ascii=False)


def _yes(value: bool) -> str:
    return "true" if value else "false"
