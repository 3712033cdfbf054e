"""Rewards: who says how good an answer is. Each scorer takes rollouts and the records of their prompts."""
