"""What models say to held-out prompts, and how good that is."""
