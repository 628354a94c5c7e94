"""Training of the small key point networks (PyTorch) and their export to ONNX."""
