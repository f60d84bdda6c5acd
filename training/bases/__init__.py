"""The frozen base model: a diffusers folder or a single checkpoint file, loaded without the network."""
