"""Samples beside Advanced-ControlNet and AnimateDiff-Evolved, in a process of its own: both change the host for good.

    python packs_beside.py FOLDER

Prints a JSON object of distances; test_packs.py reads it.  FOLDER holds checkouts of both packs.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import conftest
import torch
from small_model import noise_of, picture, relative, sample, small_controlnet, small_model
from small_tuners import control_prompts, csc_tuner

FRAMES, WINDOW = 4, 2


def pack_from(folder: Path, name: str):
    """A pack imported as the host imports it."""
    place = {"submodule_search_locations": [str(folder)]}
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", **place)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def our_pack():
    """This pack, with what the small tuners need of it."""
    from types import SimpleNamespace

    module = conftest.load_pack()
    asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list())
    parts = {
        name: importlib.import_module(f"{conftest.PACK_NAME}.nodes.host.{name}") for name in ("control", "managed")
    }
    return SimpleNamespace(core=importlib.import_module(f"{conftest.PACK_NAME}.scedit_core"), **parts)


def main(packs: Path) -> dict[str, float]:
    """Distances by name, all of which should be next to nothing, but for those whose name begins with "far"."""
    found: dict[str, float] = {}
    pack = our_pack()
    pack_from(packs / "ComfyUI-Advanced-ControlNet", "acn")
    ade = pack_from(packs / "ComfyUI-AnimateDiff-Evolved", "ade").NODE_CLASS_MAPPINGS
    apply_advanced = sys.modules["acn.adv_control.nodes_main"].AdvancedControlNetApply

    model, control, hints, noise = small_model(), csc_tuner(pack), picture(FRAMES), noise_of(FRAMES)
    (context,) = ade["ADE_StandardStaticContextOptions"]().create_options(WINDOW, 0, "flat")
    (windowed,) = ade["ADE_UseEvolvedSampling"]().use_evolved_sampling(model, "use existing", context_options=context)

    def one_by_one(prompts_of) -> torch.Tensor:
        return torch.cat([sample(model, *prompts_of(hints[i : i + 1]), noise=noise[i : i + 1]) for i in range(FRAMES)])

    def plain(image):
        return control_prompts(control, image)

    def advanced(image):
        (positive, negative) = apply_advanced.execute(
            *control_prompts(control, image, 0.0), control, image, 1.0, 0.0, 1.0
        ).args
        return positive, negative

    wanted = one_by_one(plain)
    found["far: with and without the control"] = relative(sample(model, noise=noise), wanted)
    prompts = plain(hints)
    found["windows"] = relative(sample(windowed, *prompts, noise=noise), wanted)
    found["the same conditioning without windows"] = relative(sample(model, *prompts, noise=noise), wanted)
    found["and with fewer frames"] = relative(sample(windowed, *prompts, noise=noise[:WINDOW]), wanted[:WINDOW])
    found["Apply Advanced ControlNet"] = relative(sample(model, *advanced(hints), noise=noise), wanted)
    found["Apply Advanced ControlNet under windows"] = relative(sample(windowed, *advanced(hints), noise=noise), wanted)
    found["the same once more"] = relative(sample(windowed, *prompts, noise=noise), wanted)

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    try:
        sample(windowed, *prompts, noise=noise, callback=stop)
    except Stop:
        found["after an exception in a window"] = relative(sample(model, *prompts, noise=noise), wanted)

    def with_controlnet(image):
        positive, negative = plain(image)
        return apply_advanced.execute(positive, negative, small_controlnet(), image, 0.5, 0.0, 1.0).args

    found["an advanced ControlNet in the chain"] = relative(
        sample(windowed, *with_controlnet(hints), noise=noise), one_by_one(with_controlnet)
    )
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as models, torch.inference_mode():
        conftest.folder_paths.models_dir = models
        print(json.dumps(main(Path(sys.argv[1]))))
