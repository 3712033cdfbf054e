"""Training a stage on Ray Train workers."""
