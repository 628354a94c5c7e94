"""Parser, normal form and writer for VNN-LIB 1.0 and 2.0."""
