"""The commands: `opkit <verb> --pde NAME --model NAME --preset NAME key=value ...`.

settings      what a command line means
verbs         what the commands do
"""

import errno
import getpass
import os
import sys
import tempfile

import opkit
from opkit.cli import verbs
from opkit.cli.settings import CHOICES, VERBS
from opkit.errors import OpkitError, Preempted
from opkit.registry import names, suggest

__all__ = ["VERBS", "entry", "main"]


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        print(f"opkit {opkit.__version__}")
        return 0
    verb = argv[0]
    if verb not in VERBS:
        return _complain(f"there is no command {verb!r}; there are: {', '.join(VERBS)}.{suggest(verb, list(VERBS))}")
    _settle_in()
    # Large fields are allocated and freed every step: huge pages spare the kernel most of that work.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        return getattr(verbs, verb)(argv[1:])
    except OpkitError as problem:
        return _complain(str(problem), problem.exit_code, verb)
    except Preempted as stop:
        return _complain(str(stop), stop.exit_code, verb)
    except KeyboardInterrupt:
        kept = "reports are as they were" if verb == "evaluate" else "what was finished is kept"
        return _complain(f"interrupted; {kept}", 130, verb)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return _complain(f"the disk is full ({problem}). Free some space and repeat the command with "
                             "--resume if it was training; nothing half-written is kept.", 2, verb)  # fmt: skip
        if isinstance(problem, PermissionError) or problem.errno == errno.EROFS:
            return _complain(f"no permission: {problem}. Choose a place you can write to.", 2, verb)
        raise


def _settle_in() -> None:
    """Give libraries names and places they take for granted, where a container runs as a user it does not know."""
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = user
    if not os.access(os.path.expanduser("~"), os.W_OK):
        place = os.path.join(tempfile.gettempdir(), f"opkit-{user}")
        for name in (
            "MPLCONFIGDIR",
            "XDG_CACHE_HOME",
            "TRITON_HOME",
            "WANDB_CACHE_DIR",
            "WANDB_CONFIG_DIR",
            "WANDB_DATA_DIR",
        ):
            os.environ.setdefault(name, os.path.join(place, name.lower()))


def _complain(message: str, code: int = 2, verb: str = "") -> int:
    print(f"opkit {verb}: {message}" if verb else f"opkit: {message}", file=sys.stderr)
    return code


def _overview() -> str:
    lines = [f"opkit {opkit.__version__}: neural operators that stand in for slow simulations", "", "commands:"]
    lines += [f"  opkit {verb:<10} {text}" for verb, text in VERBS.items()]
    lines += ["", "`opkit <command> --help` lists its settings. From a checkout, `python train.py` is `opkit train`."]
    for kind in CHOICES:
        lines.append(f"--{kind}: {', '.join(names(kind))}")
    return "\n".join(lines)


def entry() -> None:
    """The console script."""
    sys.exit(main())
