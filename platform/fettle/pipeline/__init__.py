"""Recipe to plan to run to report."""
