"""Whether files are byte for byte what they were when they were made."""
