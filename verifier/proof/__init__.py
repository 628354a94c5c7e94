"""Writing proofs that `verifier.checker` accepts, while a search runs."""
