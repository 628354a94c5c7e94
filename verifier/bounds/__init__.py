"""Bounds: one method per file, same call shape."""
