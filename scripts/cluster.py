#!/usr/bin/env python3
"""A real local cluster: ZooKeeper, four partition servers, one router, each a process of its own.

  scripts/cluster.py up       start it and stay in the foreground; Ctrl-C stops it, the data stays
  scripts/cluster.py down     stop one that was left behind
  scripts/cluster.py status   say which processes run

Every process has a directory below --dir: data/, its log, and its pid. As a module it is what
scripts/acceptance.py kills and restarts.
"""

import argparse
import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import time

from network import Loopback

ROOT = pathlib.Path(__file__).resolve().parent.parent
PARTITION_SERVERS = 4
PARTITIONS = 2
REPLICAS = 2

START_SECONDS = 60
"""A process, or the whole cluster, that is not there after this long is not coming."""

STOP_SECONDS = 20
"""A process that has not ended by itself after this long is killed."""

POLL_SECONDS = 0.05


class ClusterError(Exception):
    """Something did not start, or did not stop; the message says what, and where its log is."""


def wait_until(what, condition, seconds=START_SECONDS, every=POLL_SECONDS):
    """Asks until the condition gives something true, and returns that. Fails after the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not within {seconds} s")
        time.sleep(every)


def free_ports(count):
    """Ports that are free now on this machine's own address. They are held together, so that no two are the same."""
    held = []
    for _ in range(count):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        held.append(listener)
    ports = [listener.getsockname()[1] for listener in held]
    for listener in held:
        listener.close()
    return ports


def zookeeper_mode(address):
    """What a server of ZooKeeper says that it is (standalone, leader, follower); None if it does not serve."""
    try:
        with socket.create_connection(address, timeout=1) as connection:
            connection.sendall(b"srvr")
            answer = b""
            while part := connection.recv(4096):
                answer += part
    except OSError:
        return None
    modes = [line.split(b":")[1].strip() for line in answer.splitlines() if line.startswith(b"Mode:")]
    return modes[0].decode() if modes else None


def end_on_sigterm():
    """Makes a SIGTERM an exit like others, so that what was started is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class Process:
    """One server: how to start it, where its log is, and how to end it."""

    def __init__(self, directory, name, command, environment=None):
        self.name = name
        self.directory = directory / name
        self.command = [str(part) for part in command]
        self.environment = environment
        self.child = None

    @property
    def log(self):
        return self.directory / "log"

    @property
    def pid_file(self):
        return self.directory / "pid"

    def start(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            # A session of its own: a Ctrl-C at the terminal reaches only us, and we stop them in order.
            self.child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.directory, env=self.environment, start_new_session=True,
            )
        self.pid_file.write_text(f"{self.child.pid}\n")

    def check(self):
        """Fails if it has ended by itself."""
        if self.child is not None and self.child.poll() is not None:
            tail = self.log.read_text(errors="replace").splitlines()[-10:]
            raise ClusterError(
                f"{self.name} ended with {self.child.returncode}; the end of {self.log}:\n" + "\n".join(tail)
            )

    def kill(self):
        """kill -9, at once."""
        self.signal(signal.SIGKILL)
        self.child.wait()
        self.forget()

    def stop(self):
        """SIGTERM, and SIGKILL if that does not help. Returns whether it ended by itself."""
        if self.child is None or self.child.poll() is not None:
            self.forget()
            return True
        self.signal(signal.SIGTERM)
        try:
            self.child.wait(STOP_SECONDS)
            graceful = True
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.child.wait()
            graceful = False
        self.forget()
        return graceful

    def signal(self, number):
        # The group: what it may have started itself goes with it.
        os.killpg(self.child.pid, number)

    def forget(self):
        self.child = None
        self.pid_file.unlink(missing_ok=True)

    def running_pid(self):
        """The pid of one that runs, whoever started it: by its file."""
        try:
            pid = int(self.pid_file.read_text())
            directory = os.readlink(f"/proc/{pid}/cwd")
        except (OSError, ValueError):
            return None
        # A pid may be somebody else's by now; only ours works in this directory.
        return pid if directory == str(self.directory) else None


class Cluster:
    """ZooKeeper, the partition servers and the router."""

    def __init__(self, directory, paddock, base_port=None, hosts=None, zookeepers=1):
        """`hosts` says where processes live (network.py). Of ZooKeeper there may be several servers: an ensemble."""
        self.directory = pathlib.Path(directory).resolve()
        self.paddock = str(pathlib.Path(paddock).resolve())
        self.hosts = hosts or Loopback()
        if base_port is None:
            # Each server of an ensemble talks to the others on two ports more.
            ports = free_ports(2 + PARTITION_SERVERS + 3 * zookeepers)
        else:
            nodes = [base_port + 11 + number for number in range(PARTITION_SERVERS)]
            ports = [base_port, base_port + 80, *nodes, base_port + 90, 0, 0]
        self.grpc_port, self.http_port, *ports = ports
        self.node_ports, ports = ports[:PARTITION_SERVERS], ports[PARTITION_SERVERS:]
        self.zookeeper_ports = [ports[number:number + 3] for number in range(0, 3 * zookeepers, 3)]
        self.endpoint = f"http://{self.hosts.address('router')}:{self.grpc_port}"
        # Whatever the caller's environment says must not change what we start.
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PADDOCK_")}
        self.environment = clean | {"NO_COLOR": "1", "PADDOCK_ENDPOINT": self.endpoint}
        self.zookeepers = [self.zookeeper_server(number) for number in range(zookeepers)]
        self.nodes = [self.partition_server(number) for number in range(PARTITION_SERVERS)]
        router = self.hosts.address("router")
        self.router = self.process("router", [
            self.paddock, "router", *self.coordination(),
            "--grpc", f"{router}:{self.grpc_port}", "--http", f"{router}:{self.http_port}",
        ])

    @property
    def zookeeper(self):
        """The only server of ZooKeeper, or the first of an ensemble."""
        return self.zookeepers[0]

    @property
    def zookeeper_port(self):
        """Where it serves clients."""
        return self.zookeeper_ports[0][0]

    def process(self, name, command):
        return Process(self.directory, name, self.hosts.command(name, command), self.environment)

    def zookeeper_names(self):
        """Of each server."""
        count = len(self.zookeeper_ports)
        return ["zookeeper"] if count == 1 else [f"zookeeper-{number}" for number in range(count)]

    def zookeeper_addresses(self):
        """Host and port of each server, for clients."""
        return [
            (self.hosts.address(name), ports[0])
            for name, ports in zip(self.zookeeper_names(), self.zookeeper_ports)
        ]

    def coordination(self):
        servers = ",".join(f"{host}:{port}" for host, port in self.zookeeper_addresses())
        return ["--zookeeper", servers, "--cluster", "local"]

    def zookeeper_server(self, number):
        name = self.zookeeper_names()[number]
        command = [ROOT / "scripts" / "zookeeper", self.directory / name / "data", self.zookeeper_ports[number][0],
                   self.hosts.address(name)]
        if len(self.zookeeper_ports) > 1:
            command += [number + 1] + [
                f"{self.hosts.address(other)}:{peer}:{election}"
                for other, (_, peer, election) in zip(self.zookeeper_names(), self.zookeeper_ports)
            ]
        return self.process(name, command)

    def partition_server(self, number):
        name = f"partition-{number}"
        return self.process(name, [
            self.paddock, "partition", *self.coordination(),
            "--grpc", f"{self.hosts.address(name)}:{self.node_ports[number]}",
            "--data", self.directory / name / "data",
            "--partitions", PARTITIONS, "--replication-factor", REPLICAS, "--initial-nodes", PARTITION_SERVERS,
        ])

    def processes(self):
        """All, in the order in which they start."""
        return [*self.zookeepers, *self.nodes, self.router]

    def start(self):
        """Starts everything and waits until every partition has its leader and all replicas in sync."""
        running = [process.name for process in self.processes() if process.running_pid()]
        if running:
            raise ClusterError(f"already running in {self.directory}: {', '.join(running)} (stop it: cluster.py down)")
        for zookeeper in self.zookeepers:
            zookeeper.start()
        wait_until("ZooKeeper serves", self.zookeeper_serves)
        for process in [*self.nodes, self.router]:
            process.start()
        return wait_until("the cluster is healthy", self.healthy)

    def stop(self):
        """Stops everything gracefully, the router first. Returns who had to be killed."""
        return [process.name for process in reversed(self.processes()) if not process.stop()]

    def zookeeper_serves(self):
        """Whether all of its servers do."""
        for zookeeper in self.zookeepers:
            zookeeper.check()
        return all(zookeeper_mode(address) for address in self.zookeeper_addresses())

    def healthy(self):
        """The cluster's status if all is well, else None."""
        for process in self.processes():
            process.check()
        status = self.json("status", check=False)
        return status if status and status["healthy"] else None

    def run(self, *arguments, check=True, **options):
        """Runs the command against the router."""
        result = subprocess.run(
            [self.paddock, *arguments], env=self.environment, capture_output=True, check=False, **options
        )
        if check and result.returncode != 0:
            words = result.stderr.decode(errors="replace").strip()
            raise ClusterError(f"paddock {' '.join(arguments)}: exit code {result.returncode}: {words}")
        return result

    def json(self, *arguments, check=True):
        """What a command prints as JSON; None if it fails and check is off."""
        result = self.run("--timeout-seconds", "5", *arguments, "-o", "json", check=check)
        return json.loads(result.stdout) if result.returncode == 0 else None

    def node_process(self, node_id):
        """The process of a node, found by the address that it is registered with."""
        for node in self.json("status")["nodes"]:
            if node["node_id"] == node_id:
                port = int(node["grpc_address"].rsplit(":", 1)[1])
                return self.nodes[self.node_ports.index(port)]
        raise ClusterError(f"no node {node_id} is registered")


def default_binary():
    """The newest build."""
    built = [ROOT / "target" / profile / "paddock" for profile in ("debug", "release")]
    built = [path for path in built if path.exists()]
    if not built:
        raise ClusterError("no paddock is built: cargo build")
    return max(built, key=lambda path: path.stat().st_mtime)


def box(lines):
    """A frame on a terminal, plain lines elsewhere."""
    if not sys.stdout.isatty():
        return "\n".join(lines)
    width = max(map(len, lines))
    rule = "\u2500" * (width + 2)
    rows = "\n".join(f"\u2502 {line:<{width}} \u2502" for line in lines)
    return f"\u256d{rule}\u256e\n{rows}\n\u2570{rule}\u256f"


def up(cluster):
    """Starts, tells, waits for a signal, stops."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        print(f"starting in {cluster.directory} ...", flush=True)
        status = cluster.start()
        print(box([
            "PaddockDB: a local cluster of separate processes",
            "",
            f"gRPC       {cluster.endpoint}",
            f"HTTP       http://127.0.0.1:{cluster.http_port}",
            f"ZooKeeper  127.0.0.1:{cluster.zookeeper_port}",
            f"nodes      {len(status['nodes'])}, with {status['partition_count']} partitions of {REPLICAS} replicas",
            f"data, logs {cluster.directory}",
            "",
            "Try, in another terminal:",
            f"  {cluster.paddock} --endpoint {cluster.endpoint} partitions",
            "",
            "Ctrl-C stops it; the data stays.",
        ]), flush=True)
        # One that ends takes nobody along: to kill one and see what happens is what this is for.
        ended = set()
        while len(ended) < len(cluster.processes()):
            for process in cluster.processes():
                if process.name not in ended and process.child.poll() is not None:
                    ended.add(process.name)
                    print(
                        f"{process.name} ended with {process.child.returncode}; log: {process.log}\n"
                        f"to start it again: {shlex.join(process.command)}",
                        flush=True,
                    )
            time.sleep(0.2)
    finally:
        # A second Ctrl-C must not leave half of it behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for name in cluster.stop():
            print(f"{name} had to be killed", file=sys.stderr)


def down(cluster):
    """Stops what an earlier run left behind, by the pid files."""
    for process in reversed(cluster.processes()):
        pid = process.running_pid()
        if pid is None:
            process.pid_file.unlink(missing_ok=True)
            continue
        os.killpg(pid, signal.SIGTERM)
        wait_until(f"{process.name} ends", lambda: process.running_pid() is None, STOP_SECONDS)
        process.pid_file.unlink(missing_ok=True)
        print(f"{process.name} stopped")


def show(cluster):
    """Says which processes run."""
    for process in cluster.processes():
        pid = process.running_pid()
        print(f"{process.name:<12} {f'pid {pid}' if pid else 'stopped'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["up", "down", "status"])
    parser.add_argument("--dir", default=ROOT / ".local" / "cluster", help="data, logs and pids (.local/cluster)")
    parser.add_argument("--paddock", help="the command to run (the newest in target/)")
    parser.add_argument("--base-port", type=int, default=7700, help="gRPC; HTTP is 80 above, ZooKeeper 90 (7700)")
    arguments = parser.parse_args()
    try:
        cluster = Cluster(arguments.dir, arguments.paddock or default_binary(), arguments.base_port)
        {"up": up, "down": down, "status": show}[arguments.command](cluster)
    except ClusterError as error:
        sys.exit(f"cluster.py: {error}")


if __name__ == "__main__":
    main()
