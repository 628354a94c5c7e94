"""Networks with one hidden layer of ReLUs: a branch and bound of their own over the signs of the neurons."""
