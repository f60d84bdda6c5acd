"""Training on the MODEL of the graph, in the process of ComfyUI."""
