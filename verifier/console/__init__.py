"""What all command lines share: arguments, signals, what a process does to itself, files that are not overwritten."""
