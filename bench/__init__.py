"""Measurements that a person starts: speed, against the hardware and against the usual loop."""
