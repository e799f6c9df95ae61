"""The project's own exceptions: every message names what was found and what to do about it."""


class SyncNASError(Exception):
    """Base of all errors that a user can act on; the command line prints it as one line."""


class ModelError(SyncNASError):
    """The ONNX model cannot be used: unreadable, unsupported, or not fully specified."""


class TargetError(SyncNASError):
    """A target description is missing, malformed, or does not fit this machine."""


class PlanError(SyncNASError):
    """A plan does not belong to the model, or a decision in it is not valid there."""


class RuleError(SyncNASError):
    """A split rule broke its contract: wrong shapes, not exact, or it raised."""


class PassError(SyncNASError):
    """A partition pass raised, or what it returned cannot be compiled."""


class BuildError(SyncNASError):
    """A rewritten module could not be turned into an executable."""


class ArtifactError(SyncNASError):
    """A compiled folder is incomplete, changed, or made by an incompatible version."""


class InputError(SyncNASError):
    """An input given to a compiled model, or a flag value, is not what the model takes."""


class VerificationError(SyncNASError):
    """The executable's outputs differ from the ONNX model's beyond the tolerance."""


class DeviceError(SyncNASError):
    """The device for a lane is not there or failed."""


class ConfigError(SyncNASError):
    """A configuration of SyncNAS is unreadable, or its stages do not fit together."""


class CheckpointError(SyncNASError):
    """A checkpoint is unreadable, damaged, or of another model."""


class DataError(SyncNASError):
    """A data set is not there, incomplete, or not what it should be."""


def error_line(error: BaseException) -> str:
    """The last line of an error's text: TVM puts what happened there, below its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
