#!/usr/bin/env python3
"""Planned hand-overs on real processes, under a load of reads and writes of which none may fail.

  scripts/handover.py                                   one rolling restart, then 100 transfers
  scripts/handover.py --rounds 5 --transfers 1000       more of both

A rolling restart ends each partition server in turn with SIGTERM, starts it again, and waits until the cluster is healthy.
A transfer is `paddock transfer`. The load, client/examples/steady_load.rs, retries nothing, and measures the longest time
between two acknowledged writes of each partition: that is what is printed as the pause.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from cluster import PARTITIONS, Cluster, ClusterError, default_binary, end_on_sigterm, wait_until
from load import Failed, SteadyLoad, example, no_panics, stopped, summary

REFUSED_RETRY_SECONDS = 10
"""A transfer that is refused, since no replica can take over yet, is tried again for so long."""

def rolling_restart(cluster, load):
    """Restarts every partition server, one after the other. Returns the longest pause of each."""
    pauses = []
    for node in cluster.nodes:
        load.figures()
        began = time.monotonic()
        if not node.stop():
            raise Failed(f"{node.name} had to be killed")
        stopped = time.monotonic() - began
        node.start()
        wait_until("the cluster is healthy again", cluster.healthy)
        pauses.append(max(load.figures()["gap_ms_max"]))
        print(f"     {node.name} restarted: stopped in {stopped:.2f} s, healthy again after "
              f"{time.monotonic() - began:.2f} s, longest pause {pauses[-1]:.1f} ms", flush=True)
    return pauses


def transfer(cluster, partition):
    """Hands a partition over; waits for a replica that can take it."""
    def attempt():
        result = cluster.run("transfer", str(partition), "-o", "json", check=False)
        if result.returncode == 0:
            return json.loads(result.stdout)
        if result.returncode != 4:
            raise Failed(f"transfer {partition}: exit code {result.returncode}: {result.stderr.decode().strip()}")
        return None
    return wait_until(f"partition {partition} is handed over", attempt, REFUSED_RETRY_SECONDS)


def transfers(cluster, load, count):
    """Hands the partitions over in turn. Returns the pauses, as the load saw them and as the leaders measured them."""
    seen, measured = [], []
    for number in range(count):
        partition = number % PARTITIONS
        load.figures()
        ended = transfer(cluster, partition)
        if ended["from_node_id"] == ended["leader_node_id"]:
            raise Failed(f"partition {partition} stayed where it was: {ended}")
        # Until it was written to again: the pause is over by then.
        figures = [load.figures()]

        def go_on():
            figures.append(load.figures())
            return figures[-1]["writes"] > figures[0]["writes"] + 50

        wait_until("writes go on", go_on, every=0.01)
        seen.append(max(figure["gap_ms_max"][partition] for figure in figures))
        measured.append(ended["duration_ms"])
    return seen, measured


def run(work, arguments):
    cluster = Cluster(work / "cluster", arguments.paddock or default_binary())
    load = None
    try:
        cluster.start()
        load = SteadyLoad(arguments.load, cluster.endpoint, work)
        wait_until("the load begins", load.is_ready)
        time.sleep(arguments.settle_seconds)
        result = {}
        load.figures()
        time.sleep(arguments.settle_seconds)
        result["longest gap without any hand-over, ms"] = max(load.figures()["gap_ms_max"])
        restarts = [pause for _ in range(arguments.rounds) for pause in rolling_restart(cluster, load)]
        if restarts:
            result["rolling restart, longest pause of each server, ms"] = summary(restarts)
        if arguments.transfers:
            seen, measured = transfers(cluster, load, arguments.transfers)
            result["transfer, longest gap between acknowledged writes, ms"] = summary(seen)
            result["transfer, as the former leader measured it, ms"] = summary(measured)
        figures, _ = load.end()
        if figures["failed"] or figures["stale"]:
            raise Failed(f"{figures['failed']} requests failed, {figures['stale']} reads were stale")
        result["requests"] = {name: figures[name] for name in ("writes", "reads", "failed", "stale")}
        no_panics(cluster)
        stopped(cluster)
        return result
    finally:
        if load is not None:
            load.kill()
        cluster.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="how many rolling restarts of all servers (1)")
    parser.add_argument("--transfers", type=int, default=100, help="how many transfers (100)")
    parser.add_argument("--settle-seconds", type=float, default=1.0, help="load before and between (1)")
    parser.add_argument("--paddock", help="the command to test (the newest in target/)")
    parser.add_argument("--load", default=example("steady_load"),
                        help="cargo build -p paddock-client --example steady_load")
    arguments = parser.parse_args()
    end_on_sigterm()
    began = time.monotonic()
    work = pathlib.Path(tempfile.mkdtemp(prefix="paddock-handover-"))
    try:
        result = run(work, arguments)
    except (Failed, ClusterError, OSError, subprocess.SubprocessError) as error:
        print(f"FAIL {error}\n     logs: {work}\n0 passed, 1 failed", flush=True)
        sys.exit(1)
    print(json.dumps(result, indent=2))
    print(f"ok   ({time.monotonic() - began:.1f} s)\n1 passed, 0 failed")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
