"""From an ONNX file to the intermediate representation. The only package of the verifier that knows ONNX."""

from verifier.graph.onnx_import.model import Final, Model, ModelLimits, TensorInfo
from verifier.graph.onnx_import.reader import load_model
from verifier.graph.onnx_import.registry import operators
from verifier.graph.onnx_import.several import side_by_side

__all__ = ["Final", "Model", "ModelLimits", "TensorInfo", "load_model", "operators", "side_by_side"]
