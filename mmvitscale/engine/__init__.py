"""Training with MMEngine: runners, launcher, hooks, optimizers, strategies."""
