"""The programs that put a load on a cluster and judge what it answers: client/examples/."""

import json
import subprocess
import threading

from cluster import ROOT, wait_until

ANSWER_SECONDS = 20
"""How long a load may take to answer, or to end."""


class Failed(Exception):
    """The cluster did something that it must never do, or did not do what it must."""


def example(name):
    """Where cargo puts it: cargo build -p paddock-client --example NAME."""
    return ROOT / "target" / "debug" / "examples" / name


class Load:
    """A process that says READY, then what it finds wrong, and a line of JSON in the end."""

    WRONG = "VIOLATION"
    """How a line begins that says what is wrong."""

    def __init__(self, binary, work, *arguments):
        self.log = work / "load.log"
        self.output = []
        with open(self.log, "wb") as errors:
            self.child = subprocess.Popen(
                [binary, *map(str, arguments)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.child.stdout:
            self.output.append(line.strip())
            if line.startswith(self.WRONG):
                print(f"     {line.strip()}", flush=True)

    def is_ready(self):
        self.check()
        return "READY" in self.output

    def check(self):
        """Fails if it has ended by itself."""
        if self.child.poll() is not None:
            raise Failed(f"the load ended with {self.child.returncode}: {self.log.read_text(errors='replace')}")

    def end(self, seconds=ANSWER_SECONDS):
        """Lets it end. Returns its last line, and its exit code."""
        self.child.stdin.close()
        code = self.child.wait(seconds)
        self.reader.join()
        return json.loads(self.output[-1]), code

    def kill(self):
        """If it still runs."""
        if self.child.poll() is None:
            self.child.kill()


class SteadyLoad(Load):
    """client/examples/steady_load.rs: retries nothing, counts every failure, and measures the pauses."""

    WRONG = "FAILURE"
    WRITERS = 3
    READERS = 2
    """For each partition."""

    def __init__(self, binary, endpoint, work):
        super().__init__(binary, work, endpoint, self.WRITERS, self.READERS)

    def figures(self):
        """What was done so far, and the pauses since the last time that this was asked."""
        seen = len(self.output)
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        found = wait_until("the load answers", lambda: self.answer(seen), ANSWER_SECONDS, every=0.002)
        return json.loads(found)

    def answer(self, seen):
        self.check()
        return next((line for line in self.output[seen:] if line.startswith("{")), None)


def summary(values):
    """Of times: how many, the percentiles that people ask for, the longest."""
    values = sorted(values)

    def at(share):
        return values[min(len(values) - 1, int(share * len(values)))]

    return {"count": len(values), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": values[-1]}


def no_panics(cluster):
    """Fails if the log of any process tells of one."""
    for process in cluster.processes():
        if "panicked" in process.log.read_text(errors="replace"):
            raise Failed(f"{process.name} panicked: {process.log}")


def stopped(cluster):
    """Stops all; fails if one had to be killed."""
    if stubborn := cluster.stop():
        raise Failed(f"had to be killed in the end: {', '.join(stubborn)}")
