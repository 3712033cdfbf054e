"""Sweeps: trials of a recipe, each with other values of some keys, on Ray Tune."""
