"""The condition nodes: a row of skeleton.py's table each, and the detectors that some of them need."""
