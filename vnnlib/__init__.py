"""Parser, normal form and writer for VNN-LIB 1.0 and 2.0."""
from vnnlib.errors import *
from vnnlib.reading import load, loads
from vnnlib.normalise import normalise
from vnnlib.limits import Limits
