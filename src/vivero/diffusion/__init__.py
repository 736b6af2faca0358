"""The mathematics of diffusion: schedules, preconditioning, weights, samplers. Pure."""
