"""Condition images: one module for each condition, used by the nodes and by training alike.

Each takes images [B,H,W,3] (float, 0..1) and gives condition images of the same size.
"""
