"""What lies beside the pictures: never trained on where a program has left it, and named where it was meant to be."""

from __future__ import annotations

import io
import os
import shutil
import tarfile

import pytest
from PIL import Image
from rich.console import Console

from scedit_core.pictures.finding import find_candidates
from training.check import read_shards, run_check
from training.config_file import parse_config
from training.data.file_index import FileIndex
from training.data.shard_reading import samples_of
from training.data.survey import survey
from training.loop import train


def picture(i, size=(64, 64)):
    return Image.new("RGB", size, (i * 20 % 256, 90, 30))


def told(remarks, word):
    return sorted(name for remark in remarks if word in remark.what for name in remark.said.values())


@pytest.fixture
def project(control_values, tmp_path):
    """A folder with six pictures, in which a first run has cached hints, drawn previews and checked."""
    project = tmp_path / "project"
    project.mkdir()
    for i in range(6):
        picture(i).save(project / f"{i}.png")
        (project / f"{i}.txt").write_text(f"picture {i}")
    control_values["data"]["folder"] = str(project)
    control_values["output"] = str(project / "first.safetensors")
    control_values["previews"] = {"every": 1, "count": 1, "steps": 1}
    control_values |= {"validation": {"every": 0}, "tensorboard": False}
    return project


def test_a_second_run_beside_the_first_sees_the_pictures_alone(project, control_values):
    config = parse_config(control_values)
    train(config, Console(quiet=True))
    run_check(config, Console(quiet=True))
    assert len(list(config.run_folder.rglob("*.png"))) >= 6  # cached hints
    assert len(list(config.run_folder.rglob("*.jpg"))) >= 4  # previews and sheets
    shutil.copytree(config.run_folder / "cache", project / "shared_cache")
    (project / "checked").mkdir()
    for name in ("check.jpg", "check.txt"):
        shutil.copy(config.run_folder / name, project / "checked" / name)
    control_values["output"] = str(project / "second.safetensors")
    found = find_candidates(parse_config(control_values))
    assert sorted(c.name for c in found.candidates) == list("012345")
    assert told(found.remarks, "not looked into") == ["checked", "first.run", "shared_cache"]
    control_values["run"] = str(project)  # a run folder that is the folder of the pictures
    for name in ("previews", "check.jpg", "check.txt", "events.jsonl"):
        source = config.run_folder / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, project / name)
    assert sorted(c.name for c in find_candidates(parse_config(control_values)).candidates) == list("012345")


@pytest.mark.parametrize("name", ["@eaDir", "__MACOSX", "#recycle", ".thumbnails", "$RECYCLE.BIN"])
def test_thumbnails_are_not_trained_on(project, control_values, name):
    (project / "deeper" / name).mkdir(parents=True)
    picture(9).save(project / "deeper" / name / "SYNOPHOTO_THUMB_M.jpg")
    picture(9).save(project / "deeper" / "6.png")
    (project / "deeper" / "6.txt").write_text("x")
    found = find_candidates(parse_config(control_values))
    assert sorted(c.name for c in found.candidates) == [*"012345", "deeper/6"]
    assert told(found.remarks, "not looked into") == ([] if name.startswith(".") else [name])


@pytest.mark.parametrize("ending", [".jfif", ".JPE", ".jpeg", ".TGA", ".jp2", ".ppm"])
def test_rare_endings_are_read(project, control_values, ending):
    kind = {".tga": "TGA", ".jp2": "JPEG2000", ".ppm": "PPM"}.get(ending.lower(), "JPEG")
    picture(7).save(project / f"rare{ending}", kind)
    (project / "rare.txt").write_text("rare")
    found = survey(parse_config(control_values))
    assert len(found.own) == 7
    assert not found.problems


def test_pictures_that_cannot_be_read_are_named(project, control_values):
    for name in ("a.HEIC", "b.jxl", "c.psd"):
        (project / name).write_bytes(b"x")
    for name in ("d", "e.jpg_large", "notes.docx", "f.TXT"):
        (project / name).write_bytes(b"x")
    for name in ("g.json", "h.npz", "Thumbs.db", "run.yaml", "metadata.csv"):
        (project / name).write_bytes(b"{}")
    found = survey(parse_config(control_values))
    assert len(found.own) == 6
    assert len(found.problems) == 3
    assert "a.HEIC: expected a picture that can be read" in found.problems[0]
    assert told(found.all_remarks(), "files left out") == ["a.HEIC", "b.jxl", "c.psd"]
    assert told(found.all_remarks(), "not that of a picture") == ["d", "e.jpg_large", "notes.docx"]
    assert told(found.all_remarks(), "belong to no picture") == ["f.TXT"]


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def png(i):
    data = io.BytesIO()
    picture(i).save(data, "PNG")
    return data.getvalue()


def test_joined_names_in_shards_are_told_one_by_one(values, tmp_path):
    """webdataset ends a sample's name at its first dot: of five that were written, it makes two."""
    members = {}
    for i, name in enumerate(("cat", "dog", "bird.1", "bird.2", "cat.side")):
        members |= {f"{name}.png": png(i), f"{name}.txt": name.encode()}
    ordered = dict(sorted(members.items()))
    path = write_tar(tmp_path / "a.tar", ordered)
    values["data"] = {"shards": str(path), "resolution": 64}
    problems = []
    found = list(samples_of([str(path)], parse_config(values).data, problems))
    assert sorted(sample.caption for sample in found) == ["cat", "dog"]
    assert len(problems) == 3
    for name in ("bird.1.png", "bird.2.png", "cat.side.png"):
        assert sum(name in problem and "expected a name without dots" in problem for problem in problems) == 1


def test_parts_of_a_sample_are_no_pictures_left_out(values, tmp_path):
    members = {"a.png": png(0), "a.txt": b"a", "a.hint.png": png(1), "a.depth.png": png(2), "a.json": b"{}"}
    members |= {"b.jpg": png(3), "b.txt": b"b", "c.heic": b"x", "c.txt": b"c", "d.txt": b"d", "readme.md": b"x"}
    path = write_tar(tmp_path / "a.tar", members)
    values["data"] = {"shards": str(path), "resolution": 64}
    problems = []
    found = list(samples_of([str(path)], parse_config(values).data, problems))
    assert [sample.caption for sample in found] == ["a", "b"]
    assert len(problems) == 2
    assert "c.heic: expected png, jpg, webp, ..., found heic" in problems[0]
    assert "d: expected a picture beside its caption, found none; add d.png" in problems[1]


def test_hints_of_one_colour_in_shards_are_told(control_values, tmp_path):
    """`check` counts them, `train` meets them as it goes and says it once; so too where a batch repeats a picture."""
    clear = io.BytesIO()
    Image.new("RGBA", (64, 64), (255, 255, 255, 0)).save(clear, "PNG")
    lines = Image.new("L", (64, 64))
    lines.paste(255, (0, 30, 64, 31))
    drawn = io.BytesIO()
    lines.save(drawn, "PNG")
    members = {}
    for name, hint in (("0", drawn), ("a", clear), ("b", drawn), ("c", clear)):
        members |= {f"{name}.png": png(ord(name)), f"{name}.txt": b"x", f"{name}.hint.png": hint.getvalue()}
    path = write_tar(tmp_path / "set.tar", members)
    control_values |= {"previews": {"every": 0, "count": 1}, "tensorboard": False}
    control_values["validation"] = {"every": 0, "images": 1, "hold_out": 1}
    control_values["loop"] |= {"steps": 3, "batch": 4}
    control_values["data"] = {"shards": str(path), "resolution": 64, "condition": {"type": "canny"}}
    config, out = parse_config(control_values), io.StringIO()
    found = read_shards(config, Console(quiet=True)).survey
    assert told(found.remarks, "one colour") == ["set.tar/a.hint.png", "set.tar/c.hint.png"]
    assert told(found.remarks, "sizes with fewer pictures than a batch, so that 100% of all batches") == ["64x64"]
    train(config, Console(file=out, width=300))
    assert out.getvalue().count("hints of one colour, from which nothing can be learned: ") == 1
    assert out.getvalue().count("a batch shows one picture several times: 1 (64x64); add pictures") == 1


def test_long_captions_in_shards_are_told_by_train_and_counted_by_check(values, tmp_path):
    """`train` meets them as it goes, and says it once."""
    members = {}
    for i in range(12):
        members |= {f"{i:02d}.png": png(i), f"{i:02d}.txt": b"a red star " * (60 if i % 3 == 2 else 1) + b"%d" % i}
    path = write_tar(tmp_path / "set.tar", members)
    values |= {"previews": {"every": 0, "count": 1}, "validation": {"every": 0, "images": 1}, "tensorboard": False}
    values["data"] = {"shards": str(path), "resolution": 64}
    values["loop"]["steps"] = 8
    config, out = parse_config(values), io.StringIO()
    train(config, Console(file=out, width=300))
    assert out.getvalue().count("captions of more than") == 1
    assert "check counts them all" in out.getvalue()
    checked = io.StringIO()
    run_check(config, Console(file=checked, width=300))
    (line,) = [line for line in checked.getvalue().splitlines() if "captions of more than" in line]
    assert "is not read: 4 (" in line


def test_check_counts_what_is_left_out(project, control_values):
    (project / "a.heic").write_bytes(b"x")
    out = io.StringIO()
    run_check(parse_config(control_values), Console(file=out, width=200))
    assert "1 files not used" in out.getvalue()
    assert "files left out: 1 (a.heic)" in out.getvalue()


def test_a_picture_replaced_by_another_of_the_same_name_size_and_time(tmp_path):
    """Its content is hashed again, so that nothing cached of the other is used."""
    path, other, index = tmp_path / "a.bmp", tmp_path / "b.bmp", tmp_path / "index.jsonl"
    picture(1).save(path)
    old = 1_600_000_000
    os.utime(path, (old, old))
    before = FileIndex(index)
    first = before.look_up(path)
    picture(2).save(other)
    os.utime(other, (old, old))
    assert other.stat().st_size == path.stat().st_size
    os.replace(other, path)
    assert before.look_up(path).digest != first.digest
    assert FileIndex(index).look_up(path).digest != first.digest
