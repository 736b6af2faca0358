"""Settings of the drift tests that are quick enough for a test."""

from vivero.config.schema import CheckDriftConfig

CONFIG = CheckDriftConfig(
    num_images=200,
    num_components=8,
    num_permutations=99,
    level=0.05,
    min_auc=0.55,
    min_discrepancy=0.002,
    min_component_distance=0.1,
    min_outlier_share=0.01,
    min_label_distance=0.1,
    num_generated=0,
    seed=0,
)
