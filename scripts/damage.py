#!/usr/bin/env python3
"""Bits that rot, on real processes: a byte of a file that no longer changes is flipped, first of a follower's, then of a leader's.

Under writes that go on, the damage has to be found, a leader has to hand over, the replica has to begin anew, the damaged store has
to be kept for people, and nothing that was acknowledged may be lost.

  scripts/damage.py [--paddock target/debug/paddock]
"""

import argparse
import json
import pathlib
import random
import shutil
import sys
import tempfile
import threading
import time

from cluster import Cluster, ClusterError, default_binary, end_on_sigterm, wait_until

RECORDS = 12_000
VALUE_BYTES = 1_000
REPAIR_SECONDS = 120
"""From the flipped byte until everybody is in sync again."""


class Failed(Exception):
    """Something was lost, or did not happen."""


class Writer:
    """Writes one record after the other, and remembers what was acknowledged."""

    def __init__(self, cluster):
        self.cluster, self.acknowledged, self.refused, self.stopping = cluster, {}, 0, False
        self.thread = threading.Thread(target=self.write, daemon=True)
        self.thread.start()

    def write(self):
        number = 0
        while not self.stopping:
            key, value = f"written-{number % 200}", f"value {number}"
            done = self.cluster.run("--timeout-seconds", "20", "put", key, value, check=False).returncode == 0
            if done:
                self.acknowledged[key] = value
            else:
                # It may have been written or not: nothing is known of this key.
                self.acknowledged.pop(key, None)
                self.refused += 1
            number += 1

    def stop(self):
        self.stopping = True
        self.thread.join()


def partition(cluster, number):
    return cluster.json("partitions")["partitions"][number]


def stores(cluster, number, node_id):
    """The directories of a partition's stores on a node, and those that were set aside."""
    data = pathlib.Path(cluster.node_process(node_id).directory) / "data" / "partitions"
    found = [path for path in data.iterdir() if path.name.startswith(f"{number}-")]
    aside = [path for path in found if ".damaged-" in path.name]
    return [path for path in found if path not in aside], aside


def flip_a_byte(cluster, number, node_id, rng):
    """Flips a bit in the largest run of a replica. Returns the file."""
    current, _ = stores(cluster, number, node_id)
    runs = [run for store in current for run in store.glob("runs/*.run")]
    if not runs:
        raise Failed("there is no run to damage: too little was written")
    path = max(runs, key=lambda run: run.stat().st_size)
    with open(path, "r+b") as file:
        offset = rng.randrange(path.stat().st_size // 4, path.stat().st_size // 2)
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << rng.randrange(8)]))
    return path, offset


def damage(cluster, role, rng):
    """Damages a replica of this role, and waits until it was made anew."""
    number = 0
    known = partition(cluster, number)
    leader = known["leader_node_id"]
    followers = [replica["node_id"] for replica in known["replicas"] if replica["node_id"] != leader]
    node_id = leader if role == "leader" else followers[0]
    _, before = stores(cluster, number, node_id)
    path, offset = flip_a_byte(cluster, number, node_id, rng)
    began = time.monotonic()
    print(f"     flipped a bit of the {role}'s {path.name} at byte {offset}", flush=True)

    def is_set_aside():
        cluster.node_process(node_id).check()
        return len(stores(cluster, number, node_id)[1]) > len(before)

    wait_until("the damaged store is set aside", is_set_aside, REPAIR_SECONDS)
    found = time.monotonic() - began

    def is_whole():
        now = partition(cluster, number)
        return all(replica["in_sync"] and not replica["problem"] for replica in now["replicas"]) and cluster.healthy()

    wait_until("everybody is in sync again", is_whole, REPAIR_SECONDS)
    now = partition(cluster, number)["leader_node_id"]
    if role == "leader" and now == leader:
        raise Failed("the leader with the damaged store leads on")
    if role == "follower" and now != leader:
        raise Failed("damage to a follower's store moved the leadership")
    return {"found and set aside, s": round(found, 2), "in sync again, s": round(time.monotonic() - began, 2)}


def load(cluster, work, rng):
    """Records that fill a few runs. Returns them."""
    records = {f"loaded-{number}": rng.randbytes(VALUE_BYTES // 2).hex() for number in range(RECORDS)}
    file = work / "records.ndjson"
    file.write_text("".join(json.dumps({"key": key, "value": value}) + "\n" for key, value in records.items()))
    cluster.run("batch", "load", "-o", "json", str(file))
    return records


def compare(cluster, work, expected):
    """Every record is there, as it was acknowledged."""
    file = work / "dump.ndjson"
    cluster.run("batch", "dump", str(file))
    with open(file, encoding="utf-8") as lines:
        found = {record["key"]: record.get("value") for record in map(json.loads, lines)}
    lost = [key for key, value in expected.items() if found.get(key) != value]
    if lost:
        raise Failed(f"{len(lost)} of {len(expected)} records are lost or wrong, the first of them {lost[0]}")


def run(work, arguments):
    rng = random.Random(arguments.seed)
    cluster = Cluster(work / "cluster", arguments.paddock or default_binary())
    cluster.environment |= {"PADDOCK_SCRUB_EVERY_SECONDS": "1", "PADDOCK_SCRUB_MIB_PER_SECOND": "256"}
    try:
        cluster.start()
        expected = load(cluster, work, rng)
        writer = Writer(cluster)
        result = {role: damage(cluster, role, rng) for role in ("follower", "leader")}
        writer.stop()
        compare(cluster, work, expected | writer.acknowledged)
        result["records compared"] = len(expected) + len(writer.acknowledged)
        result["writes that were not acknowledged"] = writer.refused
        for process in cluster.processes():
            if "panicked" in process.log.read_text(errors="replace"):
                raise Failed(f"{process.name} panicked: {process.log}")
        return result
    finally:
        cluster.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paddock", help="the command to test (the newest in target/)")
    parser.add_argument("--seed", type=int, default=1, help="of the bytes that are written and flipped (1)")
    arguments = parser.parse_args()
    end_on_sigterm()
    began = time.monotonic()
    work = pathlib.Path(tempfile.mkdtemp(prefix="paddock-damage-"))
    try:
        result = run(work, arguments)
    except (Failed, ClusterError, OSError) as error:
        print(f"FAIL {error}\n     logs: {work}\n0 passed, 1 failed", flush=True)
        sys.exit(1)
    print(json.dumps(result, indent=2))
    print(f"ok   ({time.monotonic() - began:.1f} s)\n1 passed, 0 failed")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
