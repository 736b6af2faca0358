"""Every error this project raises on purpose.

ViveroError
├── ConfigError          params.yaml or the environment is wrong
├── DataError            an image, a shard or a manifest is wrong
├── NotComputableError   a metric that this data cannot give, such as one of labels without labels
├── IntegrityError       a file is not what it was when it was made, or cannot be compared
├── CheckpointError      a checkpoint is missing, damaged or of another model
├── TrainingError        training went wrong: bad numbers, a killed, frozen or second trainer
├── BundleError          a model bundle is missing, altered or not loadable
├── SignatureNeededError a version is registered, and another process must sign it
├── SamplingError        a model gave something that is not a finite number
├── ExtractorError       a feature extractor's weights are missing or not what they should be
├── TrackingError        the tracking server or registry refused or cannot be reached
├── RemoteError          the DVC remote or the git repository cannot be reached
├── PromotionError       a promotion was refused; the champion is unchanged
├── AbTestError          an A/B test does not run, or was told something that cannot be
└── StageError           a stage could not run

A message says what was expected, what came, and what to do next. The command line prints it
without a traceback and exits with 1.
"""


class ViveroError(Exception):
    """Root of all errors raised on purpose."""


class ConfigError(ViveroError):
    """A setting in params.yaml or the environment is wrong."""


class DataError(ViveroError):
    """An image, a shard or a manifest is not as it should be."""


class NotComputableError(ViveroError):
    """A metric that this data cannot give; the message is the reason, for the report."""


class IntegrityError(ViveroError):
    """A file is not, byte for byte, what it was when it was made."""


class CheckpointError(ViveroError):
    """A checkpoint is missing, damaged or belongs to another model."""


class TrainingError(ViveroError):
    """Training went wrong: bad numbers, or a trainer that was killed, froze or is not alone."""


class BundleError(ViveroError):
    """A model bundle is missing, altered or cannot be loaded."""


class SignatureNeededError(ViveroError):
    """A model version is registered, and another process must sign it."""


class SamplingError(ViveroError):
    """A model gave something that is not a finite number while images were made."""


class ExtractorError(ViveroError):
    """A feature extractor's weights are missing or not what they should be."""


class TrackingError(ViveroError):
    """The tracking server or the registry refused, or cannot be reached."""


class RemoteError(ViveroError):
    """The DVC remote or the git repository that runs work from cannot be reached, or refused."""


class PromotionError(ViveroError):
    """A promotion was refused; the champion is unchanged."""


class AbTestError(ViveroError):
    """An A/B test does not run, runs already, or was told something that cannot be."""


class StageError(ViveroError):
    """A stage of dvc.yaml ended with a failure."""

    def __init__(self, stage: str, exit_code: int) -> None:
        super().__init__(
            f"stage '{stage}' failed with exit code {exit_code}; its own message is above. "
            f"Correct the cause and run `vivero run` again: finished stages are not repeated"
        )
        self.stage = stage
        self.exit_code = exit_code
