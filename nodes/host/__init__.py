"""The binding to the host: its memory, its MODEL, its CONTROL_NET, and one forward of its U-Net."""
