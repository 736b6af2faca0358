"""The Python environment of a clone: what is installed, from which hashes, and for which folder."""
