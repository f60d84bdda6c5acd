"""`python -m training new`: what it asks, what it proposes, and that its file trains."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import small_checkpoints

from scedit_core import SCEditError
from training import __main__ as command
from training import proposing
from training.asking import Dialogue, ask_and_write
from training.bases.recognising import SD2, SD15, SDXL
from training.config_file import load_config
from training.proposing import Base, Pictures, needed_mib, propose

ROOT = Path(__file__).parents[2]


class Typed:
    """Answers in their order; what was asked and said is kept."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked, self.said = list(answers), [], []

    def ask(self, question: str) -> str:
        self.asked.append(question)
        if not self.answers:
            raise EOFError
        return self.answers.pop(0)


def talk(*answers: str) -> tuple[Typed, Dialogue]:
    typed = Typed(*answers)
    return typed, Dialogue(typed.ask, typed.said.append)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path) -> None:
    """No checkpoint lies around, and no GPU is here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(proposing, "host_folders", lambda start: [tmp_path / "host"])
    monkeypatch.setattr("training.asking.gpu_memory", lambda: None)


@pytest.fixture
def pictures(tmp_path, pictures_folder) -> Path:
    return Path(shutil.copytree(pictures_folder, tmp_path / "mine"))


def test_four_questions_and_the_file_passes_check(base_folder, pictures, tmp_path, capsys):
    typed, dialogue = talk(str(base_folder), str(pictures), "1", "none")
    path = ask_and_write(dialogue=dialogue)
    assert path == tmp_path / "mine-style.yaml"
    assert [question.partition(",")[0] for question in typed.asked] == [
        *("Base model", "Folder with the pictures: ", "Number: ", "Memory of the GPU that will train"),
    ]
    config = load_config(path)
    assert (config.base, config.data.folder) == (base_folder, pictures)
    assert config.tuner.kind == "sc"
    assert config.output == tmp_path / "mine-style.safetensors"
    assert all("#" in line for line in path.read_text().splitlines() if line.startswith("  "))  # each with its reason
    count = len(list(pictures.glob("*.txt")))
    assert f"{count} pictures, {count} with a caption" in typed.said[-2]
    again = ask_and_write(dialogue=talk(str(base_folder), str(pictures), "1", "none")[1])
    assert again == tmp_path / "mine-style-2.yaml"  # nothing is written over


@pytest.mark.parametrize(("said", "written"), [("mine", "mine.yaml"), ("v1.5", "v1.5.yaml"), ("a.yml", "a.yml")])
def test_the_file_ends_as_yaml_does(base_folder, pictures, tmp_path, said, written):
    told = (str(base_folder), str(pictures), "style", None, "none")
    assert ask_and_write(tmp_path / said, *told, talk()[1]) == tmp_path / written


def test_a_subject_without_captions_gets_a_name(base_folder, pictures, capsys):
    for path in pictures.glob("*.txt"):
        path.unlink()
    named = {}
    for learn in ("style", "subject"):
        path = ask_and_write(None, str(base_folder), str(pictures), learn, None, "none", talk()[1])
        named[learn] = load_config(path).data.caption
    assert named == {"style": "", "subject": "a photo of zwx"}


def test_with_options_nothing_is_asked_and_check_runs(base_folder, pictures, tmp_path, capsys):
    file = tmp_path / "edges.yaml"
    told = ["--base", str(base_folder), "--folder", str(pictures), "--learn", "canny", "--memory", "none"]
    assert command.main(["new", str(file), *told]) == 0
    said = capsys.readouterr().out
    assert f"written: {file}" in said
    assert "s an update" in said  # two of them were run
    assert load_config(file).data.condition.type == "canny"
    assert (tmp_path / "edges.run" / "check.jpg").is_file()


def test_bases_that_are_there_are_offered(tmp_path, pictures):
    checkpoints = tmp_path / "host" / "models" / "checkpoints"
    (checkpoints / "xl").mkdir(parents=True)
    pipeline = small_checkpoints.small_pipeline("sd15", small_checkpoints.write_tokenizer(tmp_path / "words"))
    small_checkpoints.write_checkpoint(checkpoints / "one.safetensors", small_checkpoints.checkpoint_weights(pipeline))
    (checkpoints / "broken.safetensors").write_bytes(b"no")
    typed, dialogue = talk("", str(pictures), "style", "8")
    path = ask_and_write(dialogue=dialogue)
    assert load_config(path).base == checkpoints / "one.safetensors"
    assert any("Stable Diffusion 1.5, one.safetensors" in line for line in typed.said)
    assert not any("broken" in line for line in typed.said)
    assert load_config(path).data.resolution == 256  # of 512, for pictures that are small


def test_a_gpu_that_is_here_is_not_asked_for(base_folder, pictures, monkeypatch):
    monkeypatch.setattr("training.asking.gpu_memory", lambda: 24.0)
    typed, dialogue = talk()
    path = ask_and_write(None, str(base_folder), str(pictures), "style", dialogue=dialogue)
    assert not typed.asked
    assert "of 24 GiB" in path.read_text()


def sd(family: str) -> Base:
    return Base(Path("base"), family, {SD15: 512, SD2: 768, SDXL: 1024}[family], "x")


@pytest.mark.parametrize(
    ("family", "learn", "memory", "expected"),
    [  # batch, batches in an update, checkpointing, 8 bits
        (SD15, "style", 24, (4, 1, False, False)),
        (SD15, "style", 6, (2, 2, False, False)),
        (SD15, "style", 4, (4, 1, True, True)),
        (SDXL, "style", 24, (4, 1, False, False)),
        (SDXL, "style", 12, (4, 1, True, False)),
        (SDXL, "style", 8, (1, 4, True, False)),
        (SDXL, "style", 6, (1, 4, True, True)),
        (SDXL, "depth", 24, (4, 2, False, False)),
        (SD15, "canny", None, (1, 8, False, False)),
    ],
)
def test_memory_decides_what_is_saved(family, learn, memory, expected):
    made = propose(sd(family), learn, Path("x"), Pictures(200, 200, 2000), memory)
    assert (made.batch, made.accumulate, made.checkpointing, made.fp8) == expected
    if memory is not None:
        needed = needed_mib(made.base, learn, made.batch, made.resolution, made.checkpointing, made.fp8)
        assert needed <= 0.92 * memory * 1024


@pytest.mark.parametrize(
    ("found", "learn", "expected"),
    [  # resolution, captions, steps, held out
        (Pictures(30, 30, 1500), "style", (512, "required", 1500, 3)),
        (Pictures(5, 4, 400), "style", (384, "optional", 600, 0)),
        (Pictures(500, 0, 1500), "subject", (512, "none", 3000, 8)),
        (Pictures(10000, 10000, 700), "canny", (512, "required", 20000, 16)),
    ],
)
def test_pictures_decide_on_length_and_size(found, learn, expected):
    made = propose(sd(SD15), learn, Path("x"), found, 24)
    assert (made.resolution, made.captions, made.steps, made.hold_out) == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"folder": "nothing"}, "--folder: expected a folder with pictures, found none at"),
        ({"learn": "everything"}, "--learn: expected one of style, subject, canny"),
        ({"memory": "lots"}, "--memory: expected GiB such as 12, or none, found lots"),
        ({"base": "nothing"}, "expected a diffusers folder or a .safetensors checkpoint"),
        ({"learn": None}, "expected an answer to 'Number', found the end of what was typed; give it as --learn"),
    ],
)
def test_answers_that_cannot_be_used_are_one_sentence(base_folder, pictures, tmp_path, change, words):
    told = {"base": str(base_folder), "folder": str(pictures), "learn": "style", "memory": "12"} | change
    with pytest.raises(SCEditError) as refusal:
        ask_and_write(**told, dialogue=talk()[1])
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.glob("*.yaml"))
