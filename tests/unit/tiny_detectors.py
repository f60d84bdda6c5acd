"""Detectors with random weights and a few channels, saved as their repositories have them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers as tf


def save_detector(kind: str, folder: Path, seed: int = 0, **options) -> Path:
    """Write the files of a detector, of a kind in `_MAKERS`, with weights drawn by `seed`.  Gives `folder`."""
    torch.manual_seed(seed)
    for part in _MAKERS[kind](**options):
        part.save_pretrained(folder)
    return folder


def _dpt():
    backbone = tf.BitConfig(
        embedding_size=16,
        hidden_sizes=[16, 16, 16],
        depths=[1, 1, 1],
        num_groups=4,
        layer_type="bottleneck",
        global_padding="same",
        embedding_dynamic_padding=True,
        out_features=["stage1", "stage2", "stage3"],
    )
    config = tf.DPTConfig(
        is_hybrid=True,
        backbone_config=backbone,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        patch_size=16,
        backbone_featmap_shape=[1, 16, 4, 4],
        neck_hidden_sizes=[16, 16, 16, 16],
        backbone_out_indices=[0, 1, 2, 3],
        neck_ignore_stages=[0, 1],
        readout_type="project",
        fusion_hidden_size=16,
    )
    processor = tf.DPTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return tf.DPTForDepthEstimation(config), processor


def _depth_anything():
    backbone = tf.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=70,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = tf.DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    processor = tf.DPTImageProcessor(size={"height": 70, "width": 70}, ensure_multiple_of=14, keep_aspect_ratio=True)
    return tf.DepthAnythingForDepthEstimation(config), processor


def _upernet():
    stages = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "num_stages": 4}
    backbone = tf.ConvNextConfig(**stages, out_features=["stage1", "stage2", "stage3", "stage4"])
    config = tf.UperNetConfig(
        backbone_config=backbone, hidden_size=16, num_labels=150, auxiliary_in_channels=16, auxiliary_channels=8
    )
    return tf.UperNetForSemanticSegmentation(config), tf.SegformerImageProcessor(size={"height": 96, "width": 96})


def _segformer(labels: int = 150):
    config = tf.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        num_labels=labels,
    )
    return tf.SegformerForSemanticSegmentation(config), tf.SegformerImageProcessor(size={"height": 96, "width": 96})


def _oneformer():
    stages = {"depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "embed_dim": 8, "window_size": 2}
    config = tf.OneFormerConfig(
        backbone_config=tf.SwinConfig(**stages, out_features=["stage1", "stage2", "stage3", "stage4"]),
        num_labels=150,
        num_queries=12,
        conv_dim=32,  # it goes through a norm of 32 groups, and where widths differ not all weights are saved
        mask_dim=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        num_attention_heads=2,
        encoder_layers=1,
        decoder_layers=2,
        query_dec_layers=1,
        text_encoder_width=16,
        task_seq_len=77,
    )
    model = tf.OneFormerForUniversalSegmentation(config)
    with torch.no_grad():  # as it is made, all pixels are of one class
        for name, p in model.named_parameters():
            head = 6 if "class_embed" in name or "mask_embed" in name else 1
            p.normal_(std=head / p[0].numel() ** 0.5 if p.ndim > 1 else 0.5)
    return model, _OneFormerFiles()


class _OneFormerFiles:
    """What lies beside OneFormer's weights: a vocabulary of letters, and how pictures are prepared."""

    def save_pretrained(self, folder: Path) -> None:
        letters = "abcdefghijklmnopqrstuvwxyz"
        words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
        (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        preparation = {
            "image_processor_type": "OneFormerImageProcessor",
            "class_info_file": "ade20k_panoptic.json",
            "repo_path": "nobody/nowhere",  # asking the network for it would fail
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
            "size": {"shortest_edge": 96, "longest_edge": 384},
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(preparation))


def _rtdetr(names: tuple[str, ...] = ("person", "dog")):
    backbone = tf.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = tf.RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[16, 16, 16],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=10,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    model = tf.RTDetrForObjectDetection(config)
    with torch.no_grad():  # as it is made, one class or another has all queries
        for name, p in model.named_parameters():
            if "class_embed" in name and p.ndim > 1:
                p.copy_(p[:1].clone().expand_as(p))
    return model, tf.RTDetrImageProcessor(size={"height": 96, "width": 96})


def _vitpose(experts: int = 1, points: int = 17):
    backbone = tf.VitPoseBackboneConfig(
        image_size=[64, 48],
        patch_size=[16, 16],
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        out_indices=[2],
        num_experts=experts,
        part_features=8 if experts > 1 else 0,
    )
    config = tf.VitPoseConfig(backbone_config=backbone, num_labels=points)
    return tf.VitPoseForPoseEstimation(config), tf.VitPoseImageProcessor(size={"height": 64, "width": 48})


_MAKERS = {
    "dpt": _dpt,
    "depth_anything": _depth_anything,
    "upernet": _upernet,
    "segformer": _segformer,
    "oneformer": _oneformer,
    "rtdetr": _rtdetr,
    "vitpose": _vitpose,
}
