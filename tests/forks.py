"""Processes that are copies of this one, for code that is stopped by a signal: they need not load torch again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys


class Fork:
    """Runs a function in a process of its own; what it returns is the exit status.

    Attributes:
        stdout: What the process prints, as it comes.
        stderr: What it says beside that.
    """

    def __init__(self, run, *arguments):
        out, to_out = os.pipe()
        err, to_err = os.pipe()
        self.stdout, self.stderr = open(out), open(err)  # noqa: SIM115
        self._process = multiprocessing.get_context("fork").Process(
            target=_in_fork, args=(to_out, to_err, run, arguments), daemon=True
        )
        self._process.start()
        os.close(to_out)
        os.close(to_err)

    def send_signal(self, number):
        os.kill(self._process.pid, number)

    def kill(self):
        self._process.kill()

    def wait(self, timeout):
        """Returns the exit status, negative for the signal that ended the process."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, "the process has not ended"
        return self._process.exitcode

    def communicate(self):
        """Returns all that is still printed, and all that is still said beside it; both must fit into a pipe."""
        said = self.stdout.read(), self.stderr.read()
        self.stdout.close()
        self.stderr.close()
        return said


def _in_fork(to_out, to_err, run, arguments):
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # a copy has no thread but this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    os.dup2(to_out, 1)
    os.dup2(to_err, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.exit(run(*arguments))
