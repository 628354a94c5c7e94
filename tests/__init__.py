"""Tests; a package, so that the oracles and strategies can be imported from any of its folders."""
