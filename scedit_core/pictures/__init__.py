"""Folders of pictures with their captions: found, read, and framed for training."""
