"""Names of modes that the command line offers before anything heavy is imported."""

ALLOCATIONS = ("uniform", "global", "mrs")
NORMS = ("layer-median", "layer-rank", "none")
FOLDS = ("zero", "mean", "graft", "sound")
BORDERS = ("interior", "exact")
RESCALES = ("none", "silent", "all")
CERTIFIED_BOUNDS = ("interval", "affine")
