"""Read mutated files of one family in this process, and report what went wrong: run by `test_fuzz.py`.

    python worker.py FAMILY FOLDER FIRST LAST

Every input must be read, or be refused by a ValueError or an OSError with a message. Reported are 10 s of
computing, memory beyond 2 GB, writing outside FOLDER, starting processes and opening connections. An input that hangs
ends the process with a trace.
"""

import contextlib
import faulthandler
import io
import json
import os
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

COMPUTING = 10  # seconds of this process, whatever else the machine does
WAITING = 60  # seconds on the clock
MEMORY = 2 * 2**30
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "socket.connect")
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.link", "os.symlink", "os.truncate")


class Watch:
    """What the process does to the world outside `folder`, by Python's audit events."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.found, self.is_on = os.path.realpath(folder), list[str](), False
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event in _FORBIDDEN:
            self.found.append(f"{event} {arguments!r}"[:300])
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.check(event, path)
        elif event in _CHANGES:
            self.check(event, arguments[0])

    def check(self, event: str, path: Any) -> None:
        """Report a path outside the folder."""
        inside = isinstance(path, int) or os.path.realpath(os.fsdecode(path)).startswith(self.folder)
        if not inside and os.fsdecode(path) != os.devnull:
            self.found.append(f"{event} {path!r}")


def limit_memory() -> None:
    """Let this process allocate 2 GB more than it holds now."""
    held = int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_DATA, (held + MEMORY, held + MEMORY))


def problem_of(family: Any, number: int) -> str | None:
    """Read one input; say what is wrong with how it was read."""
    path = family.write(number)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            family.read(path, number)
    except (ValueError, OSError) as error:
        return None if str(error).strip() else f"{type(error).__name__} without a message\n{traceback.format_exc()}"
    except BaseException:
        return traceback.format_exc()
    return None


def main() -> None:
    """Read the inputs, print a line of JSON for each problem, and the number reached."""
    name, folder, first, last = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    os.chdir(folder)
    warnings.simplefilter("ignore")
    import torch
    from families import FAMILIES

    torch.set_num_threads(1)
    watch = Watch(folder)
    family = FAMILIES[name](folder)
    for number in range(len(family.samples)):  # imports, caches
        with contextlib.suppress(Exception):
            family.read(family.write(number), number)
    limit_memory()
    reached = Path(f"{folder}.reached")
    slowest = 0.0
    for number in range(first, last):
        reached.write_text(str(number))
        faulthandler.dump_traceback_later(WAITING, exit=True)
        start = time.process_time()
        watch.is_on = True
        problem = problem_of(family, number)
        watch.is_on = False
        faulthandler.cancel_dump_traceback_later()
        seconds = time.process_time() - start
        slowest = max(slowest, seconds)
        if seconds > COMPUTING:
            problem = f"{problem or ''}\ntook {seconds:.0f} s"
        if watch.found:
            problem = f"{problem or ''}\n{watch.found}"
            watch.found = []
        if problem is not None:
            print(json.dumps({"number": number, "problem": problem[-3000:]}), flush=True)
    print(json.dumps({"done": last - first, "slowest": slowest}), flush=True)


if __name__ == "__main__":
    main()
