"""What was tried against the loss of accuracy after pruning, measured on validation images."""
