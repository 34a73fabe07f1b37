#!/usr/bin/env python3
"""Writes with request ids on real processes, while the leaders are killed again and again: each must happen exactly once.

  scripts/once.py                          20 kills, with a seed of its own
  scripts/once.py --seed 7 --kills 200     these victims again, in this order, and more of them

The load, client/examples/once_load.rs, sends every write under one id until it is decided, and gives up waiting for answers
early; each of its writes rests on the one before, so that one which is lost, or done twice, makes the next one fail. The seed
decides on the victims and the times; what a kill hits is up to the machine. It prints the seed, keeps the logs of a run that
failed, and ends with 'N passed, N failed'.
"""

import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

from cluster import PARTITIONS, Cluster, ClusterError, default_binary, end_on_sigterm, wait_until
from load import Failed, Load, example, no_panics

WRITERS = 12

GAP_SECONDS = (0.1, 1.0)
"""Between the moment that all is well again and the next kill."""

AWAY_SECONDS = (0.0, 1.5)
"""How long a victim is away: sometimes it is back before another one leads."""

FINISH_SECONDS = 90
"""How long the load may take to have everything decided."""


def leader(cluster, partition):
    """The process that leads a partition."""
    named = lambda: cluster.json("partitions")["partitions"][partition]["leader_node_id"]
    return cluster.node_process(wait_until(f"partition {partition} has a leader", named))


def run(work, arguments, seed):
    chance = random.Random(seed)
    cluster = Cluster(work / "cluster", arguments.paddock or default_binary())
    load = None
    try:
        cluster.start()
        load = Load(arguments.load, work, cluster.endpoint, seed, WRITERS)
        wait_until("the load begins", load.is_ready)
        for number in range(arguments.kills):
            time.sleep(chance.uniform(*GAP_SECONDS))
            load.check()
            partition, away = chance.randrange(PARTITIONS), chance.uniform(*AWAY_SECONDS)
            victim = leader(cluster, partition)
            victim.kill()
            time.sleep(away)
            victim.start()
            wait_until("the cluster is healthy again", cluster.healthy)
            print(f"     {number + 1}: kill -9 {victim.name}, which led partition {partition}, for {away:.2f} s",
                  flush=True)
        figures, code = load.end(FINISH_SECONDS)
        if code != 0:
            raise Failed(f"the load ended with {code}: {figures}")
        no_panics(cluster)
        if arguments.kills and not figures["unknown"]:
            raise Failed("no answer was lost, so nothing was tried")
        return figures
    finally:
        if load is not None:
            load.kill()
        cluster.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often a leader is killed (20)")
    parser.add_argument("--seed", type=int, help="which victims, and when (a new one)")
    parser.add_argument("--paddock", help="the command to test (the newest in target/)")
    parser.add_argument("--load", default=example("once_load"),
                        help="cargo build -p paddock-client --example once_load")
    arguments = parser.parse_args()
    end_on_sigterm()
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    work = pathlib.Path(tempfile.mkdtemp(prefix="paddock-once-"))
    try:
        figures = run(work, arguments, seed)
    except (Failed, ClusterError, OSError, subprocess.SubprocessError) as error:
        print(f"FAIL seed {seed}: {error}\n     logs: {work}\n0 passed, 1 failed", flush=True)
        sys.exit(1)
    print(json.dumps(figures))
    print(f"ok   ({time.monotonic() - began:.1f} s)\n1 passed, 0 failed")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
