"""Complete neural-network verification by batched branch and bound."""
