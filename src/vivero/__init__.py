"""Vivero: the training house for image diffusion models that teams can trust."""
