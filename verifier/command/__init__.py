"""What only commands need: the `verify` and `secateur` commands, lists of instances in worker processes, reports."""
