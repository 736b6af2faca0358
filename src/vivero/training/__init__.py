"""Turning prepared images into weights: step, loop, schedule, EMA, checkpoints."""
