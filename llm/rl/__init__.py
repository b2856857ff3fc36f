"""Reinforcement learning: rollouts, verifiers, advantages, losses, and the stage that joins them."""
