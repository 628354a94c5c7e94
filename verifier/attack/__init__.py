"""Search for counterexamples; every hit is replayed in ONNX Runtime."""
