"""Rewrites of graphs, one per file; each returns a graph that computes the same function."""
