"""The proof checker: reads a network, a specification and a proof, and accepts the proof or says where it fails.

It imports nothing of this project but the specification parser `vnnlib`, and nothing else but numpy and onnx. Whoever
wants to trust an `unsat` reads this package (docs/certificates.md has the lemmas), not the search.
"""
