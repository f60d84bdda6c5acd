"""Edits of skips with nothing of the pack's binding: the plain formula as an ordinary patch, in each block anew."""

from __future__ import annotations

from small_model import picture


class PlainEdits:
    """An output-block patch of the host by `edit_skip`, on all rows alike.

    seen: channels of each skip by its block.
    """

    def __init__(self, pack, edits) -> None:
        self.edit_skip, self.edits, self.seen = pack.core.editing.edit_skip, edits, {}

    def __call__(self, h, hsp, transformer_options):
        b = transformer_options["block"][1]
        self.seen[b] = hsp.shape[1]
        return h, self.edit_skip(b, hsp, self.edits)


def plain_sc(pack, tuner, strength=1.0):
    """The edit of an SC_TUNER."""
    return pack.core.editing.Edit(tuner.tuner, strength)


def plain_csc(pack, control, image=None, strength=1.0, size=(128, 128)):
    """The edit of a control for pictures of `size`, its hint stretched to it."""
    image = picture() if image is None else image
    hint = pack.hints.resized(pack.hints.as_hint(image.movedim(-1, 1)), *size, "stretch", control.tuner)
    tuner = control.tuner.tuner
    return pack.core.editing.Edit(tuner, strength, tuner.encode_hint(hint), resize_hint=True)


def with_plain(pack, model, *edits):
    """A clone of a MODEL with these edits."""
    clone = model.clone()
    clone.set_model_output_block_patch(PlainEdits(pack, edits))
    return clone
