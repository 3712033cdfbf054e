"""The stages: one file each, a function of the same name."""
