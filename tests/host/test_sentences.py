"""What reaches the page of an error: no class path, no path of the installation, the sentence first."""

from __future__ import annotations

import importlib
import shutil

import pytest
from conftest import PACK_NAME, PACK_ROOT


@pytest.fixture
def sentences(pack):
    return importlib.import_module(f"{PACK_NAME}.nodes.sentences")


@pytest.fixture
def tuners(models_folder):
    """The folder of tuners, empty again afterwards."""
    folder = models_folder / "scedit"
    folder.mkdir(exist_ok=True)
    before = set(folder.iterdir())
    yield folder
    for path in set(folder.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_the_host_writes_no_path_before_the_sentence(pack):
    """By its own naming of exceptions, which the page puts in front of the message."""
    from execution import full_type_name

    def kinds(kind: type) -> list[type]:
        return [kind, *(each for below in kind.__subclasses__() for each in kinds(below))]

    errors = kinds(pack.core.SCEditError)
    assert {"TunerFileError", "ConditionError", "ConfigError", "TrainingError"} <= {each.__name__ for each in errors}
    assert {full_type_name(each) for each in errors} == {"SCEdit"}


def test_a_nodes_error_names_files_as_comfyui_does(pack, tuners, models_folder):
    (tuners / "broken.safetensors").write_bytes(b"no tuner")
    with pytest.raises(pack.core.TunerFileError) as refusal:
        pack.nodes["SCEditLoadSCTuner"].execute("broken.safetensors")
    assert str(refusal.value).startswith("models/scedit/broken.safetensors: expected")
    assert str(models_folder) not in str(refusal.value)


def test_a_command_below_the_sentence_keeps_its_paths(sentences):
    text = f"{PACK_ROOT}/web: expected\n{PACK_ROOT}/requirements.txt"
    assert (
        sentences.with_short_paths(text) == f"custom_nodes/{PACK_ROOT.name}/web: expected\n{PACK_ROOT}/requirements.txt"
    )


def test_without_a_tuner_the_only_choice_says_what_to_do(pack, models_folder, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_filename_list", lambda _key: [])
    for node in ("SCEditLoadSCTuner", "SCEditLoadCSCTuner"):
        (choice,) = pack.nodes[node].define_schema().inputs[0].options
        assert choice == "put a tuner into models/scedit and press R"
        with pytest.raises(pack.core.TunerFileError, match=f"expected a tuner, found none; {choice}, or train one"):
            pack.nodes[node].execute(choice)


def test_a_name_saved_on_windows_is_found(pack, tuners):
    folder = tuners / "a" / "b"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.safetensors").touch()
    assert pack.folders.path_of("a\\b\\x.safetensors", "scedit") == str(folder / "x.safetensors")


def test_words_of_other_tools_find_the_nodes(pack):
    """Where the schema has a place for them."""
    schemas = {name: node.define_schema() for name, node in pack.nodes.items()}
    if not hasattr(schemas["SCEditLoadSCTuner"], "search_aliases"):
        pytest.skip("this host's schema has no search_aliases")
    words = {name: schema.search_aliases for name, schema in schemas.items()}
    assert all(words.values())
    wanted = ["style", "lora", "controlnet", "t2i adapter", "openpose", "hed", "scribble"]
    wanted += ["inpaint", "outpaint", "mosaic", "train", "finetune"]
    for word in wanted:
        assert any(word in each for each in words.values()), word
    assert [name for name, each in words.items() if "scedit" in each] == ["SCEditLoadSCTuner", "SCEditApplySCTuner"]


def test_a_second_copy_of_the_pack_says_so_and_adds_no_nodes(pack, monkeypatch, caplog):
    import asyncio

    import nodes as host_nodes

    other = type("SCEditLoadSCTuner", (), {"__module__": "another_copy.nodes.sc"})
    monkeypatch.setitem(host_nodes.NODE_CLASS_MAPPINGS, "SCEditLoadSCTuner", other)
    extension = asyncio.run(pack.module.comfy_entrypoint())
    assert asyncio.run(extension.get_node_list()) == []
    assert "installed twice, here and in another_copy.nodes.sc; remove one of them from custom_nodes" in caplog.text
