"""What the simulation of the gate asks for: each target can be met, and each can be missed."""

import pytest

from vivero.registry.gate_targets import Target


@pytest.mark.parametrize(
    ("found", "at_least", "at_most", "is_met"),
    [
        (0.04, None, 0.05, True),
        (0.05, None, 0.05, True),
        (0.06, None, 0.05, False),
        (0.81, 0.8, None, True),
        (0.80, 0.8, None, True),
        (0.79, 0.8, None, False),
        (0.0, -0.01, 0.01, True),
        (-0.02, -0.01, 0.01, False),
        (0.02, -0.01, 0.01, False),
    ],
)
def test_a_target_is_met_within_its_limits_alone(found, at_least, at_most, is_met):
    assert Target("share", found, 0.0, 1.0, at_least, at_most, 100).is_met is is_met
