"""Words under which the page's search finds the nodes beside their names, where the host's schema can hold them."""

from __future__ import annotations

import functools

from comfy_api.latest import io

_STYLE = ("style", "lora", "sc tuner", "风格", "SC 微调器")
_CONTROL = ("controlnet", "control", "t2i adapter", "csc tuner", "控制")
_HINT = ("hint", "preprocessor", "controlnet", "预处理")
_TRAIN = ("train", "finetune", "fine-tune", "lora", "style", "训练", "微调")
WORDS = {
    "SCEditLoadSCTuner": ("scedit", *_STYLE),  # a word met exactly is first among names as long
    "SCEditApplySCTuner": ("scedit", *_STYLE),
    "SCEditLoadCSCTuner": _CONTROL,
    "SCEditApplyCSCTuner": _CONTROL,
    "SCEditBlockWeights": ("lora block weight", "layers", "分层权重"),
    "SCEditTunerInfo": ("metadata", "download", "信息"),
    "SCEditMergeSCTuners": ("merge lora", "mix styles", "合并"),
    "SCEditSaveTuner": ("save lora", "export", "保存"),
    "SCEditCanny": (*_HINT, "edges", "lineart", "边缘"),
    "SCEditSoftEdge": (*_HINT, "hed", "scribble", "edges", "lineart", "软边缘", "涂鸦"),
    "SCEditDepth": (*_HINT, "midas", "depth map", "深度"),
    "SCEditPose": (*_HINT, "openpose", "dwpose", "skeleton", "姿态"),
    "SCEditSegmentation": (*_HINT, "ade20k", "semantic", "seg", "分割"),
    "SCEditColorPalette": (*_HINT, "mosaic", "pixelate", "colour", "color", "调色板", "马赛克"),
    "SCEditCompletion": (*_HINT, "inpaint", "outpaint", "扩图", "补全", "重绘"),
    "SCEditTrainTuner": _TRAIN,
    "SCEditTrainOnModel": _TRAIN,
    "SCEditDistillControlNet": ("distill", "convert controlnet", "train", "蒸馏"),
}


def findable(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, whose schema has its words where the host's can hold them."""
    define = node.define_schema.__func__

    @functools.wraps(define)
    def defined(cls):
        schema = define(cls)
        if hasattr(schema, "search_aliases"):
            schema.search_aliases = list(WORDS[schema.node_id])
        return schema

    node.define_schema = classmethod(defined)
    return node
