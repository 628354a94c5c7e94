"""Bound methods: interval arithmetic, affine forms, backward rows and alpha-CROWN."""
