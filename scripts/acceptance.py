#!/usr/bin/env python3
"""The acceptance test: a real cluster, the machine's whole package index, a kill -9, a restart.

It loads every stanza of `apt-cache dumpavail` (key = package/version, value = the stanza), reads every
record back and compares byte for byte; loads all of it a second time under other keys, and kills the leader
of one partition with -9 in the middle; checks that no acknowledged record was lost or doubled; starts the
killed node again and waits until it is in sync; stops everything, starts everything, compares again.

While the leader dies, a prober writes to its partition without a pause. The failover gap is the longest time
between two of its acknowledged writes, the start of a process for each of them included.
"""

import argparse
import base64
import json
import pathlib
import random
import shutil
import subprocess
import sys
import threading
import time

from cluster import ROOT, Cluster, ClusterError, default_binary, down, end_on_sigterm, wait_until

SMALL_RECORDS = 5_000
"""What `make test` loads: several batches before the kill and after it."""

RECORDS_MIN = 4_000
"""Fewer, and the kill would not fall between two batches of the second load."""

SAMPLE_RECORDS = 25
"""How many records are also read one by one."""

IN_SYNC_SECONDS = 120
"""Within this time a restarted node must have caught up."""


class Failed(Exception):
    """The cluster did something that it must never do."""


def package_index():
    """Every stanza by its key. The same package and version may stand in several indexes: later ones get a
    number, so that each stanza has a key of its own."""
    if shutil.which("apt-cache") is None:
        raise ClusterError("there is no apt-cache here: this test loads the package index of Debian or Ubuntu")
    dump = subprocess.run(["apt-cache", "dumpavail"], stdout=subprocess.PIPE, check=True).stdout
    records = {}
    for stanza in dump.split(b"\n\n"):
        stanza = stanza.strip(b"\n")
        fields = dict(line.split(b": ", 1) for line in stanza.split(b"\n") if line[:8] in (b"Package:", b"Version:"))
        if b"Package" not in fields:
            continue
        name = (fields[b"Package"] + b"/" + fields.get(b"Version", b"")).decode()
        key, copies = name, 1
        while key in records:
            copies += 1
            key = f"{name}#{copies}"
        records[key] = stanza
    if len(records) < RECORDS_MIN:
        raise ClusterError(f"apt-cache knows only {len(records)} packages: run `apt-get update` first")
    return records


def line(key, value):
    """A record as `paddock batch load` reads it."""
    try:
        return json.dumps({"key": key, "value": value.decode()}) + "\n"
    except UnicodeDecodeError:
        return json.dumps({"key": key, "value_b64": base64.b64encode(value).decode()}) + "\n"


def parse(text):
    """A dumped line as key and value, in bytes."""
    record = json.loads(text)
    return tuple(
        record[name].encode() if name in record else base64.b64decode(record[f"{name}_b64"])
        for name in ("key", "value")
    )


class Prober(threading.Thread):
    """Writes to one partition without a pause, and remembers what was acknowledged.

    In turn it creates a record (an acknowledged one must never be lost) and raises a counter by
    compare-and-set (if anything but its own writes touched the counter, a write was done twice)."""

    def __init__(self, cluster, tag):
        super().__init__(name="prober")
        self.cluster = cluster
        self.prefix = f"probe/{{{tag}}}/"
        self.counter = self.prefix + "counter"
        self.stopping = threading.Event()
        self.acknowledged = {}
        self.unknown = {}
        self.times = []
        self.refused = 0
        self.count = 0
        self.version = None
        self.unsettled = False
        """True after a first write of unknown outcome that could not be read: it may still come."""
        self.problem = None

    def run(self):
        try:
            number = 0
            while not self.stopping.is_set():
                number += 1
                self.create(number)
                self.increment()
        except Exception as error:  # pylint: disable=broad-except
            self.problem = error

    def finish(self):
        self.stopping.set()
        self.join()
        if self.problem:
            raise self.problem

    def put(self, *arguments):
        result = self.cluster.run("put", *arguments, check=False)
        if result.returncode == 0:
            self.times.append(time.monotonic())
        elif result.returncode == 5:
            self.refused += 1
        return result

    def create(self, number):
        key, value = f"{self.prefix}{number:06}", f"probe {number}"
        code = self.put("--create", key, value).returncode
        if code == 0:
            self.acknowledged[key] = value.encode()
        elif code == 6:
            self.unknown[key] = value.encode()
        elif code != 5:
            raise Failed(f"creating {key}, which nobody else writes, ended with exit code {code}")

    def increment(self):
        condition = ["--create"] if self.version is None else ["--if-version", str(self.version)]
        result = self.put(*condition, self.counter, str(self.count + 1))
        if result.returncode == 0:
            self.count += 1
            self.version = int(result.stdout.split()[1])
        elif result.returncode == 6 or (result.returncode == 4 and self.version is None and self.unsettled):
            self.settle()
        elif result.returncode != 5:
            raise Failed(f"the counter was touched: {result.stderr.decode().strip()}")

    def settle(self):
        """After an unknown outcome only a read tells whether the write was done. It may still be done after
        the read; a write of the same value at the version that was read closes that door, since every older
        condition fails from then on."""
        while True:
            value, self.version = wait_until("the counter can be read", self.read_counter)
            if value not in (self.count, self.count + 1):
                raise Failed(f"the counter is {value} after {self.count} acknowledged increments")
            self.count = value
            self.unsettled = self.version is None
            if self.unsettled:
                return
            result = self.put("--if-version", str(self.version), self.counter, str(value))
            if result.returncode == 0:
                self.version = int(result.stdout.split()[1])
                return

    def read_counter(self):
        result = self.cluster.run("get", "-o", "json", self.counter, check=False)
        if result.returncode == 3:
            return 0, None
        if result.returncode != 0:
            return None
        record = json.loads(result.stdout)
        return int(record["value"]), record["version"]

    def expected(self):
        """What must be there at the end."""
        return {key.encode(): value for key, value in self.acknowledged.items()}

    def tolerated(self):
        """What may be there: writes whose outcome nobody knows."""
        return {key.encode(): value for key, value in self.unknown.items()}

    def gap_ms(self):
        """The longest time between two acknowledged writes."""
        return max((after - before) * 1_000 for before, after in zip(self.times, self.times[1:]))


class Acceptance:
    """The steps, in order, and what they measured."""

    def __init__(self, cluster, records, work):
        self.cluster = cluster
        self.work = work
        self.records = records
        self.first = {key.encode(): value for key, value in records.items()}
        self.second = {b"second/" + key: value for key, value in self.first.items()}
        self.measured = {}

    def run(self):
        try:
            began = time.monotonic()
            self.cluster.start()
            self.note("cluster healthy after", time.monotonic() - began, "s")
            self.load_all()
            self.compare("after the first load", self.first, {})
            self.sample()
            prober = self.load_with_a_kill()
            everything = self.first | self.second | prober.expected()
            counter = {prober.counter.encode(): str(prober.count).encode()}
            self.compare("after the failover", everything | counter, prober.tolerated())
            self.rejoin()
            self.restart()
            self.compare("after the restart", everything | counter, prober.tolerated())
        finally:
            killed = self.cluster.stop()
        if killed:
            raise Failed(f"did not stop on SIGTERM: {', '.join(killed)}")

    def note(self, what, figure, unit):
        self.measured[what] = (round(figure, 3), unit)
        print(f"  {what}: {figure:,.3f} {unit}".replace(".000", ""), flush=True)

    def load_all(self):
        file = self.work / "index.ndjson"
        file.write_text("".join(line(key, value) for key, value in self.records.items()))
        result = self.cluster.run("batch", "load", "-o", "json", str(file))
        summary = json.loads(result.stderr.splitlines()[-1])
        if summary["records"] != len(self.first):
            raise Failed(f"loaded {summary['records']} of {len(self.first)} records")
        self.note("records loaded", summary["records"], "records")
        self.note("bytes loaded", summary["bytes"], "bytes")
        self.note("load time", summary["seconds"], "s")
        self.note("load rate", summary["records_per_second"], "records/s")

    def compare(self, when, expected, tolerated):
        """Dumps everything and compares it byte for byte. No record may be missing, foreign, or there twice."""
        file = self.work / "dump.ndjson"
        file.unlink(missing_ok=True)
        began = time.monotonic()
        self.cluster.run("batch", "dump", str(file))
        seconds = time.monotonic() - began
        found = {}
        with open(file, encoding="utf-8") as lines:
            for text in lines:
                key, value = parse(text)
                if key in found:
                    raise Failed(f"{when}: {key!r} is there twice")
                found[key] = value
        for key, value in expected.items():
            if key not in found:
                raise Failed(f"{when}: {key!r} was acknowledged, and is lost")
            if found[key] != value:
                raise Failed(f"{when}: {key!r} holds {found[key][:60]!r}, not {value[:60]!r}")
        for key, value in found.items():
            if key not in expected and tolerated.get(key) != value:
                raise Failed(f"{when}: nobody wrote {key!r}")
        self.note(f"records equal {when}", len(found), "records")
        self.note(f"dump rate {when}", len(found) / seconds, "records/s")

    def sample(self):
        """Reads some records one by one, as a program would."""
        for key in random.Random(1).sample(sorted(self.records), min(SAMPLE_RECORDS, len(self.records))):
            if self.cluster.run("get", key).stdout != self.records[key]:
                raise Failed(f"get {key} gives other bytes than were loaded")

    def load_with_a_kill(self):
        """The second load comes through a pipe, and the leader dies when half of it is written there: the
        load cannot have ended, and its batches are under way."""
        leader = self.cluster.json("partitions")["partitions"][0]["leader_node_id"]
        self.killed = self.cluster.node_process(leader)
        prober = Prober(self.cluster, self.tag_of_partition(0))
        lines = [line(f"second/{key}", value) for key, value in self.records.items()]
        prober.start()
        wait_until("the prober writes", lambda: len(prober.times) > 10 or prober.problem)
        began = time.monotonic()
        loading = subprocess.Popen(
            [self.cluster.paddock, "batch", "load", "-o", "json", "-"],
            env=self.cluster.environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        try:
            loading.stdin.writelines(lines[: len(lines) // 2])
            killed_at = time.monotonic()
            self.killed.kill()
            loading.stdin.writelines(lines[len(lines) // 2 :])
            words = loading.communicate()[1]
            self.note("second load time, with the kill", time.monotonic() - began, "s")
            wait_until("writes go on", lambda: prober.problem or prober.times[-1] > killed_at)
        finally:
            prober.finish()
            if loading.poll() is None:
                loading.kill()
                loading.wait()
        if loading.returncode != 0:
            raise Failed(f"the second load ended with {loading.returncode}: {words}")
        summary = json.loads(words.splitlines()[-1])
        if summary["records"] != len(lines):
            raise Failed(f"the second load acknowledged {summary['records']} of {len(lines)} records")
        self.note("records sent again", summary["retries"], "records")
        self.note("failover gap", prober.gap_ms(), "ms")
        self.note("acknowledged probes", len(prober.times), "writes")
        self.note("probes of unknown outcome", len(prober.unknown), "writes")
        return prober

    def tag_of_partition(self, partition_id):
        """A hash tag whose keys live in the partition."""
        for number in range(100):
            tag = f"tag{number}"
            if self.cluster.json("locate", f"{{{tag}}}")["partition"]["partition_id"] == partition_id:
                return tag
        raise Failed(f"none of 100 keys is placed in partition {partition_id}")

    def rejoin(self):
        """The killed node catches up from the new leader and is in sync again."""
        began = time.monotonic()
        self.killed.start()
        wait_until("the killed node is in sync again", self.cluster.healthy, IN_SYNC_SECONDS)
        self.note("killed node in sync again after", time.monotonic() - began, "s")

    def restart(self):
        killed = self.cluster.stop()
        if killed:
            raise Failed(f"did not stop on SIGTERM: {', '.join(killed)}")
        began = time.monotonic()
        self.cluster.start()
        self.note("whole cluster healthy after a restart in", time.monotonic() - began, "s")

    def report(self):
        width = max(map(len, self.measured))
        for what, (figure, unit) in self.measured.items():
            number = f"{figure:,.0f}" if figure >= 100 or figure == int(figure) else f"{figure:,.2f}"
            print(f"  {what:<{width}}  {number:>14} {unit}")
        figures = {what: {"figure": figure, "unit": unit} for what, (figure, unit) in self.measured.items()}
        file = self.work / "result.json"
        file.write_text(json.dumps(figures, indent=2) + "\n")
        print(json.dumps(figures))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--records", type=int, default=SMALL_RECORDS, metavar="N", help="load only N stanzas (5000)")
    size.add_argument("--all", action="store_true", help="load the whole index")
    parser.add_argument("--dir", default=ROOT / ".local" / "acceptance", help="begun anew each time")
    parser.add_argument("--paddock", help="the command to run (the newest in target/)")
    arguments = parser.parse_args()
    if arguments.records < RECORDS_MIN:
        parser.error(f"--records: at least {RECORDS_MIN}, so that the kill falls between two batches")
    directory = pathlib.Path(arguments.dir).resolve()
    end_on_sigterm()
    try:
        records = package_index()
        if not arguments.all:
            records = dict(list(records.items())[: arguments.records])
        cluster = Cluster(directory / "cluster", arguments.paddock or default_binary())
        # An earlier run that was killed must not be forgotten with its directory.
        down(cluster)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        print(f"acceptance: {len(records):,} records, in {directory}, with {cluster.paddock}", flush=True)
        acceptance = Acceptance(cluster, records, directory)
        acceptance.run()
    except (ClusterError, Failed) as error:
        print(f"test acceptance ... FAILED: {error}\nlogs: {directory}/cluster/*/log", file=sys.stderr)
        sys.exit(1)
    print("measured:")
    acceptance.report()
    print("test acceptance ... ok")


if __name__ == "__main__":
    main()
