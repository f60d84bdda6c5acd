"""What is given for less memory: layers that keep less for the backward pass, recomputing, 8-bit weights, compiling."""
