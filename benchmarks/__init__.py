"""Measurements and the demo. They use the commands, never the insides."""
