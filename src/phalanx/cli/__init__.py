"""The verbs. Each imports what it needs when it runs, so that --help answers at once."""

import errno
import os
import signal
import sys
import time
from contextlib import suppress

from phalanx.cli import (  # noqa: F401  their verbs join the program
    bench,
    data,
    exchange,
    launch,
    measure,
    models,
    plan,
    serve,
    train,
    tune,
    use,
)
from phalanx.cli.app import app
from phalanx.cli.interrupts import end_during_imports
from phalanx.errors import InputError, no_memory
from phalanx.parent import end_with_launcher

# errors of a network's file system that may be gone when a launcher starts the run again, which it does for code 1
PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENETUNREACH, errno.EHOSTUNREACH)


def main() -> None:
    """Run the program. User errors are one line and exit code 2; PHALANX_TRACEBACK=1 shows where they came from."""
    end_with_launcher()
    end_during_imports()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch's C++ writes its stack for every lost connection
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # or every installed package is asked whether it has one
    try:
        app(prog_name="phalanx")
    except KeyboardInterrupt:  # before a verb has begun, or while it could not be asked
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its exit
        sys.exit(141)
    except Exception as error:
        line, together = _error_line(error), os.environ.get("WORLD_SIZE", "1") != "1"
        code = 1 if isinstance(error, OSError) and error.errno in PASSING else 2
        if together and not line:
            from phalanx.runtime.rendezvous import lost_process

            line, code = lost_process(error), 1
        if not line or os.environ.get("PHALANX_TRACEBACK"):
            raise
        if not together or _speaks():
            print(f"phalanx: {line}", file=sys.stderr)
        if together:
            with suppress(KeyboardInterrupt):
                time.sleep(2)  # the others ask too, and whoever started them ends them all when the first ends
        sys.exit(code)


def _speaks() -> bool:
    """Return whether this process is the one of several to print an error."""
    from phalanx.runtime.rendezvous import should_report

    return should_report()


def _error_line(error: Exception) -> str:
    """Return the line to print for an error that is the user's to mend or the machine's; nothing for a defect."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'input or output'}: {error.strerror or error}"
    if isinstance(error, UnicodeDecodeError | UnicodeEncodeError):
        return f"a text is not {error.encoding.upper()}: {error}"
    if no_memory(error):
        return "out of memory; a smaller model (model.preset), data.sequence or layout.micro_batch takes less"
    return ""
