"""What the host asks for at its start: the list of nodes.  A group that cannot be imported costs its own nodes only."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path

from comfy_api.latest import ComfyExtension, io

from .search_words import findable
from .sentences import speaking

log = logging.getLogger(__name__)

# Modules of this package and the nodes in them, each node's class being named as its id.
GROUPS = {
    "sc": ("SCEditLoadSCTuner", "SCEditApplySCTuner"),
    "csc": ("SCEditLoadCSCTuner", "SCEditApplyCSCTuner"),
    "weighting": ("SCEditBlockWeights",),
    "tuner_files": ("SCEditTunerInfo", "SCEditMergeSCTuners", "SCEditSaveTuner"),
    "conditions.pixels": ("SCEditCanny", "SCEditColorPalette"),
    "conditions.completion": ("SCEditCompletion",),
    "conditions.soft_edge": ("SCEditSoftEdge",),
    "conditions.maps": ("SCEditDepth", "SCEditSegmentation"),
    "conditions.pose": ("SCEditPose",),
    "training.train_tuner": ("SCEditTrainTuner",),
    "training.on_model": ("SCEditTrainOnModel",),
    "training.distil": ("SCEditDistillControlNet",),
}


def _other_copy() -> str | None:
    """The folder of another copy of this pack whose nodes the host has already, such as the Manager's beside git's."""
    node = getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {}).get("SCEditLoadSCTuner")
    if node is None or node.__module__.startswith(__package__):
        return None
    file = getattr(sys.modules.get(node.__module__), "__file__", None)
    return str(Path(file).parents[1]) if file else node.__module__


class SCEditExtension(ComfyExtension):
    """All nodes that can be imported here."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The node classes.  For a group that fails, the log has the traceback and a sentence that names its nodes."""
        nodes: list[type[io.ComfyNode]] = []
        if other := _other_copy():
            log.error("ComfyUI-SCEdit is installed twice, here and in %s; remove one of them from custom_nodes", other)
            return nodes
        for module, names in GROUPS.items():
            try:
                group = importlib.import_module(f".{module}", __package__)
                found = [findable(speaking(getattr(group, name))) for name in names]
                for node in found:
                    node.GET_SCHEMA()  # a schema that this host refuses must not take the other groups with it
                nodes.extend(found)
            except Exception as error:
                log.exception(
                    "ComfyUI-SCEdit: %s not available, because nodes/%s.py could not be imported (%s); "
                    "the other nodes work",
                    ", ".join(names),
                    module.replace(".", "/"),
                    error,
                )
        return nodes
