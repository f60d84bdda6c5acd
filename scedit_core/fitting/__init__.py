"""What every way of training shares: the objective, chance, optimising, checkpoints, validation, events."""
