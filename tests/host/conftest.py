"""One real host for this process, on its CPU, with the pack loaded as the host loads it: under a name of its own."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

PACK_ROOT = Path(__file__).resolve().parents[2]
if "SCEDIT_TEST_HOST" not in os.environ:
    raise pytest.UsageError("these tests need a real host in a process of its own: python tests/host/run.py")
HOST_ROOT = Path(os.environ["SCEDIT_TEST_HOST"])
PART = os.environ.get("SCEDIT_TEST_PART")  # see run.py
PACK_NAME = "scedit_pack_under_test"

sys.path[:0] = [str(Path(__file__).parent), str(PACK_ROOT / "tests" / "browser")]
sys.path.append(str(PACK_ROOT / "tests" / "training"))  # for warm.py
sys.path.insert(0, str(HOST_ROOT))
assert str(PACK_ROOT) not in sys.path, "the pack's nodes/ folder would hide the host's nodes.py"

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True  # before anything asks for a device

import comfy.model_management  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402


def load_pack():
    """Import the pack's root as the host does: from its folder, as a package, without its parent on sys.path."""
    spec = importlib.util.spec_from_file_location(
        PACK_NAME, PACK_ROOT / "__init__.py", submodule_search_locations=[str(PACK_ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK_NAME] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def models_folder(tmp_path_factory) -> Path:
    """An empty models folder in place of the host's, so that tests neither see nor leave files there."""
    root = tmp_path_factory.mktemp("models")
    folder_paths.models_dir = str(root)
    folder_paths.folder_names_and_paths["controlnet"] = (
        [str(root / "controlnet")],
        folder_paths.supported_pt_extensions,
    )
    (root / "controlnet").mkdir()
    return root


@pytest.fixture(scope="session")
def pack(models_folder) -> SimpleNamespace:
    """The pack: its nodes by id, and its core, and its modules by name (see _HOST_MODULES)."""
    module = load_pack()
    extension = asyncio.run(module.comfy_entrypoint())
    nodes = {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}
    found = {name: importlib.import_module(f"{PACK_NAME}.nodes.{name}") for name in _NODE_MODULES}
    found |= {name: importlib.import_module(f"{PACK_NAME}.nodes.host.{name}") for name in _HOST_MODULES}
    core = importlib.import_module(f"{PACK_NAME}.scedit_core")
    for name in ("converting", "editing", "merging", "tuners"):
        importlib.import_module(f"{PACK_NAME}.scedit_core.{name}")
    found["folding"] = importlib.import_module(f"{PACK_NAME}.scedit_core.folding")
    gc.collect()
    gc.freeze()  # a host is a million objects that no test frees, and each test looks through all
    return SimpleNamespace(module=module, nodes=nodes, core=core, **found)


@pytest.fixture(scope="session")
def server(pack, tmp_path_factory):
    """The host's real server with the pack in it, all files that the templates name, and what the demo graphs need.

    run.py says which hosts have other pins for their web packages than are installed here.
    """
    if PART == "no server":
        pytest.skip("SERVER NOT TESTED: this host pins other versions of its web packages than are installed here")
    import demo_files
    import make_workflows
    from host_server import Server
    from template_files import write_random_files

    base = tmp_path_factory.mktemp("server")
    make_workflows.place_files(base)
    write_random_files(pack, base / "models")
    demo_files.place_files(base)
    with Server(HOST_ROOT, PACK_ROOT, base, [PACK_ROOT / "tests" / "host" / "demo_nodes"]) as running:
        yield running
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="session")
def training(pack) -> SimpleNamespace:
    """The modules of nodes/training, and what a base is to them."""
    own = ("frozen_layers", "host_base", "on_model", "picture_set", "previews", "running")
    found = {name: importlib.import_module(f"{PACK_NAME}.nodes.training.{name}") for name in own}
    found["base"] = importlib.import_module(f"{PACK_NAME}.scedit_core.fitting.base")
    return SimpleNamespace(**found)


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """Empty output and input folders of the host, and an empty models/scedit."""
    for name in ("output", "input", "scedit"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "scedit", ([str(tmp_path / "scedit")], {".safetensors"}))
    folder_paths.filename_list_cache.clear()
    return tmp_path


@pytest.fixture
def train(pack, folders):
    """Run the node with some inputs changed, as the host does: all in lists."""

    from train_on_model_widgets import WIDGETS

    def train(model, sweep=False, **changed):
        given = {"model": model, **WIDGETS, **changed}
        lists = ("latents", "positive", "hints")
        lists += tuple(key for key, value in given.items() if isinstance(value, list) and sweep)
        given = {key: value if key in lists else [value] for key, value in given.items()}
        return pack.nodes["SCEditTrainOnModel"].execute(**given).args

    return train


_NODE_MODULES = ("folders", "extension")
_HOST_MODULES = ("patch", "control", "managed", "hints", "run", "forward")


@pytest.fixture(autouse=True)
def clean_host():
    """Nothing stays loaded from one test to the next, and no test has gradients."""
    with torch.inference_mode():
        yield
    comfy.model_management.unload_all_models()
    gc.collect()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what belongs to this process."""
    if PART in ("server", "in process"):
        others = [item for item in items if ("server" in item.fixturenames) != (PART == "server")]
        items[:] = [item for item in items if item not in others]
        config.hook.pytest_deselected(items=others)


def pytest_report_header() -> str:
    version = (HOST_ROOT / "comfyui_version.py").read_text().split('"')[1]
    return f"host: ComfyUI {version} on the CPU"
