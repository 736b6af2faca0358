"""Code that a bundle carries for diffusers; copied as text, never imported by vivero."""
