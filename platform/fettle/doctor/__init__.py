"""What this machine, or a cluster, is like: whether fettle can be used there, and what to mend."""
