"""Networks as values: the intermediate representation, its meaning, and the way in from ONNX."""
