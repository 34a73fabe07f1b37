#!/usr/bin/env python3
"""Chaos on real processes: a cluster is killed, frozen and healed at random while it is written and read, and must
not lose, double or roll back anything that it acknowledged.

  scripts/chaos.py                          one minute, with a seed of its own
  scripts/chaos.py --seed 7 --seconds 300   these faults again, in this order, for longer
  scripts/chaos.py --network                every process in a network namespace of its own, and faults of the network too
  scripts/chaos.py --zookeepers 3           an ensemble of ZooKeeper, of which one server at a time is hurt

The load, client/examples/chaos_load.rs, knows what every read may show. The seed decides on the faults, their victims
and their times; what they hit is up to the machine, so that a failure may take a few runs to show again. It prints the
seed and every fault, keeps the logs of a run that failed, and ends with 'N passed, N failed'.
"""

import argparse
import collections
import heapq
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import network
from cluster import Cluster, ClusterError, default_binary, end_on_sigterm, wait_until
from load import Failed, Load, example, no_panics, stopped

WRITERS = 8
READERS = 4

HEALTHY_SECONDS = 20
"""Within this time after the last fault the cluster must be healthy, with every replica in sync."""

VERIFY_SECONDS = 90
"""How long the load may take to read everything back."""

GAP_SECONDS = (0.3, 2.5)
"""Between two faults. They may overlap."""


class Chaos:
    """Does things to processes, and undoes them later."""

    def __init__(self, cluster, net, seed):
        self.cluster = cluster
        self.net = net
        self.random = random.Random(seed)
        self.began = time.monotonic()
        self.hurt = set()
        self.heals = []
        self.count = collections.Counter()
        self.faults = [
            (5, self.kill_leader), (4, self.kill_any), (5, self.freeze_leader), (4, self.freeze_any),
            (2, self.freeze_zookeeper), (2, self.kill_zookeeper), (2, self.freeze_router), (1, self.kill_router),
            (1, self.kill_all), (5, self.transfer), (2, self.wipe),
        ]
        if net:
            self.faults += [
                (5, self.cut_leader), (3, self.cut_any), (4, self.part_two), (2, self.cut_zookeeper), (1, self.cut_router),
            ]

    def say(self, what):
        print(f"{time.monotonic() - self.began:7.2f} s  {what}", flush=True)

    def run(self, seconds, load):
        end = self.began + seconds
        while time.monotonic() < end:
            weights, faults = zip(*self.faults)
            self.random.choices(faults, weights)[0]()
            self.wait(self.random.uniform(*GAP_SECONDS), load)
        while self.heals:
            self.wait(0.05, load)

    def wait(self, seconds, load):
        """Sleeps, heals what is due, and looks whether anything died that nobody killed."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until or (self.heals and self.heals[0][0] <= now):
            if self.heals and self.heals[0][0] <= now:
                _, _, process, heal = heapq.heappop(self.heals)
                heal()
                self.hurt.discard(process.name)
            for process in self.cluster.processes():
                process.check()
            load.check()
            time.sleep(0.01)

    def later(self, seconds, process, heal):
        self.hurt.add(process.name)
        heapq.heappush(self.heals, (time.monotonic() + seconds, len(self.hurt) + time.monotonic(), process, heal))

    def kill(self, process, seconds):
        if process.name in self.hurt:
            return
        self.count["kill"] += 1
        self.say(f"kill -9 {process.name} for {seconds:.2f} s")
        process.kill()
        self.later(seconds, process, process.start)

    def freeze(self, process, seconds):
        if process.name in self.hurt:
            return
        self.count["freeze"] += 1
        self.say(f"freeze {process.name} for {seconds:.2f} s")
        process.signal(signal.SIGSTOP)
        self.later(seconds, process, lambda: process.signal(signal.SIGCONT))

    def cut(self, process, seconds, directions=("incoming", "outgoing"), peer=None):
        """Nothing comes in, or goes out, or neither; only of one other process, or of all."""
        if process.name in self.hurt:
            return
        self.count["cut"] += 1
        which = " and ".join(directions)
        whose = f" between it and {peer.name}" if peer else ""
        self.say(f"cut {process.name} off for {seconds:.2f} s: {which} packets{whose}")
        self.net.cut(process.name, directions, peer.name if peer else None)
        self.later(seconds, process, lambda: self.net.heal(process.name))

    def some_directions(self):
        return self.random.choice([("incoming", "outgoing"), ("incoming",), ("outgoing",)])

    def cut_leader(self):
        self.cut(self.leader(), self.random.uniform(0.1, 5), self.some_directions())

    def cut_any(self):
        # The longer ones outlast its session with ZooKeeper.
        seconds = self.random.choice([self.random.uniform(0.1, 5), 9])
        self.cut(self.random.choice(self.cluster.nodes), seconds, self.some_directions())

    def part_two(self):
        """Two servers hear nothing of each other, or one nothing of the other; both reach everybody else."""
        one, other = self.random.sample(self.cluster.nodes, 2)
        self.cut(one, self.random.uniform(0.1, 8), self.some_directions(), other)

    def cut_zookeeper(self):
        """ZooKeeper from one server, or from all."""
        peer = self.random.choice([None, *self.cluster.nodes])
        self.cut(self.one_zookeeper(), self.random.uniform(0.1, 8), self.some_directions(), peer)

    def cut_router(self):
        self.cut(self.cluster.router, self.random.uniform(0.1, 3), self.some_directions())

    def one_zookeeper(self):
        """A random server of ZooKeeper. Where it is an ensemble, one at a time is hurt: it is there to outlive that."""
        hurt = [server for server in self.cluster.zookeepers if server.name in self.hurt]
        return hurt[0] if hurt else self.random.choice(self.cluster.zookeepers)

    def leader(self):
        """The process that leads a random partition; any server, where nobody knows."""
        number = self.random.randrange(2)
        any_server = self.random.choice(self.cluster.nodes)
        try:
            result = self.cluster.run("--timeout-seconds", "1", "partitions", "-o", "json", check=False, timeout=2)
            if result.returncode != 0:
                return any_server
            return self.cluster.node_process(json.loads(result.stdout)["partitions"][number]["leader_node_id"])
        except (ClusterError, subprocess.TimeoutExpired, IndexError):
            return any_server

    def kill_leader(self):
        seconds = self.random.choice([0, self.random.uniform(0, 3)])
        self.kill(self.leader(), seconds)

    def kill_any(self):
        self.kill(self.random.choice(self.cluster.nodes), self.random.uniform(0, 3))

    def freeze_leader(self):
        seconds = self.random.choice([self.random.uniform(0.1, 1.5), self.random.uniform(0.1, 5)])
        self.freeze(self.leader(), seconds)

    def freeze_any(self):
        # The longer ones outlast its session with ZooKeeper.
        self.freeze(self.random.choice(self.cluster.nodes), self.random.choice([self.random.uniform(0.1, 5), 9]))

    def freeze_zookeeper(self):
        self.freeze(self.one_zookeeper(), self.random.choice([self.random.uniform(0.1, 5), 10]))

    def kill_zookeeper(self):
        self.kill(self.one_zookeeper(), self.random.choice([0, self.random.uniform(0, 4), 10]))

    def freeze_router(self):
        self.freeze(self.cluster.router, self.random.uniform(0.1, 3))

    def kill_router(self):
        self.kill(self.cluster.router, self.random.uniform(0, 1))

    def transfer(self):
        """Has a leader hand over; whether it does is up to what else happens."""
        number = self.random.randrange(2)
        self.count["transfer"] += 1
        try:
            result = self.cluster.run("--timeout-seconds", "1", "transfer", str(number), check=False, timeout=2)
            self.say(f"transfer {number}: exit code {result.returncode}")
        except subprocess.TimeoutExpired:
            self.say(f"transfer {number}: no answer")

    def wipe(self):
        """Kills a server and takes its disk away, as soon as others lead what it led: they hold all that was acknowledged.

        Only when all is well: with two copies of each row, nothing may be wrong with the other one.
        """
        if self.hurt or not self.cluster.healthy():
            return
        process = self.random.choice(self.cluster.nodes)
        before = self.cluster.json("partitions")["partitions"]
        led = [
            (number, partition["epoch"]) for number, partition in enumerate(before)
            if self.cluster.node_process(partition["leader_node_id"]) is process
        ]
        self.count["wipe"] += 1
        self.say(f"kill -9 {process.name}, and remove its partitions' files")
        process.kill()

        def others_lead():
            found = self.cluster.json("partitions", check=False)
            return found and all(
                found["partitions"][number]["epoch"] > epoch
                and found["partitions"][number]["leader_node_id"] not in ("", before[number]["leader_node_id"])
                for number, epoch in led
            )

        wait_until(f"others lead what {process.name} led", others_lead, HEALTHY_SECONDS)
        shutil.rmtree(process.directory / "data" / "partitions")
        process.start()

    def kill_all(self):
        seconds = self.random.uniform(0, 2)
        for node in self.cluster.nodes:
            self.kill(node, seconds + self.random.uniform(0, 0.5))


def replicas_agree(cluster):
    """True if all replicas of each partition are as far, and hold as many records."""
    found = cluster.json("partitions", check=False)
    if not found:
        return False
    for partition in found["partitions"]:
        states = {
            tuple(replica[name] for name in ("last_sequence", "committed_sequence", "applied_sequence", "record_count"))
            for replica in partition["replicas"]
        }
        if len(states) != 1 or len(partition["replicas"]) != 2:
            return False
    return True


def judged(load):
    """Lets the load read everything back; returns its figures. Fails if anything was not as it must be."""
    figures, code = load.end(VERIFY_SECONDS)
    violations = [line for line in load.output if line.startswith(load.WRONG)]
    if violations:
        raise Failed(f"{len(violations)} violations, the first: {violations[0]}")
    if code != 0:
        raise Failed(f"the load ended with {code}: {load.log.read_text(errors='replace')}")
    return figures


def episode(work, arguments, seed):
    """One cluster, from its start through all its faults to its end. Returns the figures."""
    net = network.Network() if arguments.network != "no" else None
    cluster = Cluster(
        work / "cluster", arguments.paddock or default_binary(), hosts=net, zookeepers=arguments.zookeepers
    )
    load = None
    chaos = None
    try:
        cluster.start()
        load = Load(arguments.load, work, cluster.endpoint, seed, WRITERS, READERS)
        wait_until("the load begins", load.is_ready)
        chaos = Chaos(cluster, net, seed)
        chaos.run(arguments.seconds, load)
        healed = time.monotonic()
        wait_until("the cluster is healthy after the last fault", cluster.healthy, HEALTHY_SECONDS)
        chaos.say(f"healthy {time.monotonic() - healed:.1f} s after the last fault")
        figures = judged(load)
        wait_until("the replicas agree", lambda: replicas_agree(cluster), HEALTHY_SECONDS)
        no_panics(cluster)
        stopped(cluster)
        return figures | {"faults": dict(chaos.count)}
    finally:
        if load is not None:
            load.kill()
        for process in cluster.processes():
            if process.child is not None and process.child.poll() is None:
                process.signal(signal.SIGCONT)
                if net:
                    net.heal(process.name)
        cluster.stop()
        if net:
            net.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="decides on the faults (a random one)")
    parser.add_argument("--seconds", type=float, default=60, help="how long one run does harm (60)")
    parser.add_argument("--runs", type=int, default=1, help="how many runs, each with the next seed (1)")
    parser.add_argument("--network", choices=["no", "yes", "auto"], nargs="?", const="yes", default="no",
                        help="faults of the network too; needs root, or the right to make namespaces (auto: where there is it)")
    parser.add_argument("--zookeepers", type=int, default=1, choices=[1, 3], help="how many servers of ZooKeeper (1)")
    parser.add_argument("--paddock", help="the command to test (the newest in target/)")
    parser.add_argument("--load", default=example("chaos_load"),
                        help="cargo build -p paddock-client --example chaos_load")
    arguments = parser.parse_args()
    end_on_sigterm()
    if arguments.network != "no":
        try:
            network.enter()
        except network.NetworkError as error:
            if arguments.network == "yes":
                sys.exit(f"chaos.py: {error}")
            print(f"no faults of the network: {error}", flush=True)
            arguments.network = "no"
    first = arguments.seed if arguments.seed is not None else random.randrange(1_000_000)
    failed = 0
    for seed in range(first, first + arguments.runs):
        flags = f" --network {arguments.network} --zookeepers {arguments.zookeepers}"
        print(f"seed {seed}: scripts/chaos.py --seed {seed} --seconds {arguments.seconds:g}{flags}", flush=True)
        work = pathlib.Path(tempfile.mkdtemp(prefix="paddock-chaos-"))
        try:
            print(f"ok   seed {seed}: {json.dumps(episode(work, arguments, seed))}", flush=True)
            shutil.rmtree(work)
        except (Failed, ClusterError, network.NetworkError, OSError, subprocess.SubprocessError) as error:
            failed += 1
            print(f"FAIL seed {seed}: {error}\n     logs: {work}", flush=True)
    print(f"{arguments.runs - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
