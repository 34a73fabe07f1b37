#!/usr/bin/env python3
"""How long a partition goes without an acknowledged write when its leader fails, on real processes under a steady load.

  scripts/failover.py                                            ten of each
  scripts/failover.py --kills 100 --hangs 30 --cuts 30 --zookeepers 3

Four ways to fail, each of a partition's leader in turn, and what is measured is what the load's writers saw: the
longest time between two acknowledged writes of that partition.

  kill       kill -9; the server is started again once another one leads
  hang       SIGSTOP, for as long as it takes
  cut        nothing comes in and nothing goes out: its packets are dropped without an answer (--network, needs root)
  zookeeper  every server of ZooKeeper is killed and comes back after some seconds: no leader may change, and no request fail

The load, client/examples/steady_load.rs, retries nothing. Requests that were on their way to the leader may fail; whatever was
acknowledged must be read from then on, or the run fails.
"""

import argparse
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import network
from cluster import PARTITIONS, Cluster, ClusterError, default_binary, end_on_sigterm, wait_until
from load import Failed, SteadyLoad, example, no_panics, stopped, summary

WRITES_AFTER = 50
"""So many acknowledged writes of the partition under its new leader, and the pause is over."""

FAILOVER_SECONDS = 30
"""A partition that nobody leads after this long has failed the test."""

ZOOKEEPER_AWAY_SECONDS = 3
"""Longer than its clients' sessions last."""


class Failover:
    """A cluster under load, and what is done to it."""

    def __init__(self, cluster, load, net):
        self.cluster = cluster
        self.load = load
        self.net = net

    def partitions(self):
        return self.cluster.json("partitions")["partitions"]

    def fail(self, number, hurt, heal):
        """Hurts the leader of a partition, waits for another one and for its writes, and heals. Returns the pause in ms."""
        partition = number % PARTITIONS
        before = self.partitions()[partition]
        leader = self.cluster.node_process(before["leader_node_id"])
        # What was measured so far is asked for, and so forgotten.
        self.load.figures()
        figures = []
        hurt(leader)

        def led_by_another():
            figures.append(self.load.figures())
            found = self.cluster.json("partitions", check=False)
            return found and found["partitions"][partition]["epoch"] > before["epoch"] \
                and found["partitions"][partition]["leader_node_id"] not in ("", None, before["leader_node_id"])

        wait_until(f"another leader of partition {partition}", led_by_another, FAILOVER_SECONDS)
        enough = figures[-1]["writes_by_partition"][partition] + WRITES_AFTER

        def written_again():
            figures.append(self.load.figures())
            return figures[-1]["writes_by_partition"][partition] >= enough

        wait_until("writes go on", written_again, FAILOVER_SECONDS)
        heal(leader)
        wait_until("the cluster is healthy again", self.cluster.healthy)
        return max(figure["gap_ms_max"][partition] for figure in figures)

    def kill(self, number):
        return self.fail(number, lambda leader: leader.kill(), lambda leader: leader.start())

    def hang(self, number):
        return self.fail(
            number, lambda leader: leader.signal(signal.SIGSTOP), lambda leader: leader.signal(signal.SIGCONT)
        )

    def cut(self, number):
        return self.fail(number, lambda leader: self.net.cut(leader.name), lambda leader: self.net.heal(leader.name))

    def zookeeper(self, _number):
        """Returns the longest pause of any partition meanwhile, in ms. No leader may change, no request may fail."""
        epochs = [partition["epoch"] for partition in self.partitions()]
        before = self.load.figures()
        for server in self.cluster.zookeepers:
            server.kill()
        time.sleep(ZOOKEEPER_AWAY_SECONDS)
        for server in self.cluster.zookeepers:
            server.start()
        wait_until("ZooKeeper serves again", self.cluster.zookeeper_serves)
        wait_until("the cluster is healthy again", self.cluster.healthy)
        after = self.load.figures()
        if (now := [partition["epoch"] for partition in self.partitions()]) != epochs:
            raise Failed(f"epochs were {epochs} before ZooKeeper went away, and are {now}")
        if after["failed"] != before["failed"]:
            raise Failed(f"{after['failed'] - before['failed']} requests failed while ZooKeeper was away")
        return max(after["gap_ms_max"])


def run(work, arguments):
    net = network.Network() if arguments.cuts else None
    cluster = Cluster(
        work / "cluster", arguments.paddock or default_binary(), hosts=net, zookeepers=arguments.zookeepers
    )
    load = None
    try:
        cluster.start()
        load = SteadyLoad(arguments.load, cluster.endpoint, work)
        wait_until("the load begins", load.is_ready)
        failover = Failover(cluster, load, net)
        result = {}
        for name, count in (
            ("zookeeper", arguments.zookeeper_restarts), ("kill", arguments.kills), ("hang", arguments.hangs),
            ("cut", arguments.cuts),
        ):
            pauses = []
            for number in range(count):
                pauses.append(getattr(failover, name)(number))
                print(f"     {name} {number + 1} of {count}: {pauses[-1]:.0f} ms", flush=True)
            if pauses:
                result[f"{name}: longest pause of each, ms"] = summary(pauses)
        figures, _ = load.end()
        result["requests"] = {name: figures[name] for name in ("writes", "reads", "failed", "stale")}
        if figures["stale"]:
            raise Failed(f"{figures['stale']} reads did not show what had been acknowledged")
        no_panics(cluster)
        stopped(cluster)
        return result
    finally:
        if load is not None:
            load.kill()
        for process in cluster.processes():
            if process.child is not None and process.child.poll() is None:
                process.signal(signal.SIGCONT)
        cluster.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="how many leaders are killed (10)")
    parser.add_argument("--hangs", type=int, default=10, help="how many are stopped without being told (10)")
    parser.add_argument("--cuts", type=int, default=0, help="how many are cut off from the network; needs root (0)")
    parser.add_argument("--zookeeper-restarts", type=int, default=1, help="how often ZooKeeper is killed (1)")
    parser.add_argument("--zookeepers", type=int, default=1, choices=[1, 3], help="how many servers of ZooKeeper (1)")
    parser.add_argument("--paddock", help="the command to test (the newest in target/)")
    parser.add_argument("--load", default=example("steady_load"),
                        help="cargo build -p paddock-client --example steady_load")
    arguments = parser.parse_args()
    end_on_sigterm()
    try:
        if arguments.cuts:
            network.enter()
    except network.NetworkError as error:
        sys.exit(f"failover.py: {error}")
    began = time.monotonic()
    work = pathlib.Path(tempfile.mkdtemp(prefix="paddock-failover-"))
    try:
        result = run(work, arguments)
    except (Failed, ClusterError, network.NetworkError, OSError, subprocess.SubprocessError) as error:
        print(f"FAIL {error}\n     logs: {work}\n0 passed, 1 failed", flush=True)
        sys.exit(1)
    print(json.dumps(result, indent=2))
    print(f"ok   ({time.monotonic() - began:.1f} s)\n1 passed, 0 failed")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
