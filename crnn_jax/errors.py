"""The errors of crnn_jax that a user can cause and mend."""

from crnn_jax.messages import one_line


class CrnnError(Exception):
    """Errors whose message is meant for the user: one line, whatever names and texts are in it."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class ConfigError(CrnnError):
    """A setting, or a file a setting names, is missing or makes no sense."""


class DataError(CrnnError):
    """A sample, a label or a prediction cannot be used."""


class CheckpointError(CrnnError):
    """A checkpoint is missing, damaged or belongs to another model."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint is not what was saved; the one before it may be."""


class TrainingDiverged(CrnnError):
    """The loss or a gradient is no longer finite."""


class ExportFailed(CrnnError):
    """An exported model does not read what it reads in JAX."""
