"""Proofs: programs and tests that break a training on purpose and compare what comes of it."""
