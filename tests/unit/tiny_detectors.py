"""Detectors with random weights and a few channels, saved as their repositories have them."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers as tf


def save_detector(kind: str, folder: Path, seed: int = 0, **options) -> Path:
    """Write a detector's files: dpt (MiDaS DPT-hybrid), depth_anything, upernet, segformer.  Gives `folder`."""
    torch.manual_seed(seed)
    make = {"dpt": _dpt, "depth_anything": _depth_anything, "upernet": _upernet, "segformer": _segformer}
    model, processor = make[kind](**options)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
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
