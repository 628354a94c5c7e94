"""Counterexample search and replay."""
