"""Errors that are the user's to mend: shown as one message, without a traceback, by every command."""


class OpkitError(Exception):
    """Something the user can put right. The message says what failed, the value, what is accepted, what to change."""

    exit_code = 2


class ConfigError(OpkitError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(OpkitError):
    """Stored data that are missing, damaged, foreign or made with other parameters."""


class RunError(OpkitError):
    """A run directory that is in the way, or is not one."""


class BundleError(OpkitError, ValueError):
    """A surrogate bundle with a missing, damaged or foreign file."""


class GateError(OpkitError):
    """A result that does not meet the `gate` asked for."""

    exit_code = 3


class Diverged(OpkitError):
    """Training met a number that is not finite."""


class OutOfMemory(OpkitError):
    """Training needs more memory than there is."""

    exit_code = 12


class SolverError(OpkitError, ArithmeticError):
    """A solver did not reach an answer it can stand behind."""


class UnresolvedError(SolverError, ValueError):
    """A grid too coarse for the solution on it."""


class Preempted(KeyboardInterrupt):
    """SIGTERM or SIGUSR1 asked for the machine back. Like Ctrl-C, no `except Exception` may swallow it."""

    exit_code = 75

    def __init__(
        self, signal: str, then: str = "what was finished is kept, and the same command continues where this one ended"
    ):
        super().__init__(f"stopped by {signal}; {then}")
        self.signal = signal
