"""Training from the graph: in a process of its own, or on the MODEL in the process of ComfyUI."""
