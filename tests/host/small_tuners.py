"""Tuners with seeded noise for the small models, on the wires of the pack's nodes."""

from __future__ import annotations

from small_model import picture, prompt, randomise, unet_config

import nodes as host_nodes


def layout(pack, family: str = "sd1"):
    """The skips of the small models, as the pack derives them."""
    return pack.core.SkipLayout.from_host(unet_config(family))


def sc_tuner(pack, seed: int = 21, family: str = "sd1", **options):
    """An SC_TUNER."""
    tuner = randomise(pack.core.SCTuner(layout(pack, family), **options), seed)
    return pack.managed.ManagedTuner(tuner, f"sc{seed}.safetensors", f"sc{seed}")


def csc_tuner(pack, seed: int = 31, family: str = "sd1", kernel: int = 3, **options):
    """A CONTROL_NET that holds a CSC-Tuner."""
    tuner = randomise(pack.core.CSCTuner(layout(pack, family), kernel=kernel, **options), seed)
    return pack.control.SCEditControl(pack.managed.ManagedTuner(tuner, f"csc{seed}.safetensors", f"csc{seed}"))


def apply_sc(pack, model, tuner, strength=1.0, start=0.0, end=1.0, side="both", **optional):
    """What the node Apply SC-Tuner gives."""
    node = pack.nodes["SCEditApplySCTuner"]
    return node.execute(model, tuner, strength, start, end, side, **optional).args[0]


def apply_csc(pack, model, control, image=None, strength=1.0, start=0.0, end=1.0, resize="crop", **optional):
    """What the node Apply CSC-Tuner gives."""
    node = pack.nodes["SCEditApplyCSCTuner"]
    image = picture() if image is None else image
    return node.execute(model, control, image, strength, start, end, resize, **optional).args[0]


def control_prompts(control, image=None, strength=1.0, start=0.0, end=1.0, positive=None, negative=None, family="sd1"):
    """What the host's Apply ControlNet (Advanced) gives: positive and negative CONDITIONING."""
    image = picture() if image is None else image
    positive = prompt(1, family) if positive is None else positive
    negative = prompt(2, family) if negative is None else negative
    node = host_nodes.ControlNetApplyAdvanced()
    return node.apply_controlnet(positive, negative, control, image, strength, start, end)


class EncodeCount:
    """Counts how often the hint encoder of a CONTROL_NET runs while the context is open."""

    def __init__(self, control) -> None:
        self.encoder, self.count = control.tuner.encoder, 0

    def __enter__(self) -> EncodeCount:
        self.handle = self.encoder.register_forward_hook(self._count)
        return self

    def __exit__(self, *_) -> None:
        self.handle.remove()

    def _count(self, *_) -> None:
        self.count += 1


def kept(run) -> int:
    """Bytes that a run holds on all devices."""
    return sum(state.nbytes for state in list(run._states.values()))


class Forwards:
    """While the context is open: the tuners at work in each forward of the U-Net, and the runs that they were in."""

    def __init__(self, pack) -> None:
        self.kind, self.tuners, self.runs = pack.run.Run, [], []

    def __enter__(self) -> Forwards:
        self.original = original = self.kind.folded

        def folded(run, *args):
            groups = original(run, *args)
            self.tuners.append([edit.tuner for group in groups for edit in group.edits])
            self.runs.append(run)
            return groups

        self.kind.folded = folded
        return self

    def __exit__(self, *_) -> None:
        self.kind.folded = self.original

    def with_tuner(self, tuner) -> list[int]:
        """The forwards in which an SC_TUNER, or the tuner of a control, was at work."""
        return [i for i, tuners in enumerate(self.tuners) if any(each is tuner.tuner for each in tuners)]
