"""Model + specification -> the problem that is solved, its queries as tensors, and ONNX Runtime as its judge."""
