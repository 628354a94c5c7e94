"""Structured pruning of ONNX networks for certifiability."""
