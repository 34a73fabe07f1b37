#!/usr/bin/env python3
"""What goes wrong around a cluster, done to real processes: each must end in a clear error or in nothing at
all, and no acknowledged record may be lost.

  scripts/faults.py               all cases
  scripts/faults.py NAME ...      some of them

Every case is a function below whose docstring says what it holds. It prints one line for each, and ends with
'N passed, N failed', and how many this machine could not try.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request

from cluster import Cluster, ClusterError, default_binary, end_on_sigterm, free_ports, wait_until

DISK_FULL_MIB = 40
"""The small disk. `paddock dev` keeps four stores on it, of one preallocated extent each."""


class Failed(Exception):
    """A case does not hold."""


class Skipped(Exception):
    """A case cannot be tried on this machine; the message says what it lacks."""


def expect(condition, what):
    if not condition:
        raise Failed(what)


def ends_with(command, code, *words, environment=None):
    """Runs a command that must end with this code and name these words on stderr."""
    result = subprocess.run(command, capture_output=True, timeout=60, env=environment, check=False)
    stderr = result.stderr.decode(errors="replace")
    told = f"{' '.join(map(str, command))}: exit code {result.returncode}: {stderr.strip()}"
    expect(result.returncode == code, f"not exit code {code}: {told}")
    for word in words:
        expect(word in stderr, f"does not say {word!r}: {told}")
    expect("panicked" not in stderr, told)


def log_says(process, words):
    """Waits until a process has logged these words."""
    wait_until(f"{process.name} logs {words!r}", lambda: words in process.log.read_text(errors="replace"))


def http_status(port, path):
    """The status and text of a GET."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def no_panics(cluster):
    for process in cluster.processes():
        text = process.log.read_text(errors="replace") if process.log.exists() else ""
        expect("panicked" not in text, f"{process.log} tells of a panic")


def zookeeper_comes_late_goes_away_and_returns(work, paddock):
    """Without ZooKeeper the servers wait, and say so. When it is there they carry on. When it is killed,
    reads and writes go on; when it returns, no leader has changed."""
    cluster = Cluster(work / "cluster", paddock)
    try:
        for process in [*cluster.nodes, cluster.router]:
            process.start()
        for process in [*cluster.nodes, cluster.router]:
            log_says(process, "ZooKeeper")
            process.check()
        status, text = wait_until("/livez answers", lambda: http_status(cluster.http_port, "/livez"))
        expect(status == 200, f"/livez without ZooKeeper: {status} {text}")
        status, text = http_status(cluster.http_port, "/readyz")
        expect(status == 503, f"/readyz without ZooKeeper: {status} {text}")
        early = cluster.run("--timeout-seconds", "1", "get", "k", check=False)
        expect(early.returncode == 5, f"a get without a cluster: {early.returncode} {early.stderr}")

        cluster.zookeeper.start()
        wait_until("the cluster is healthy", cluster.healthy)
        for number in range(20):
            cluster.run("put", f"before{number}", str(number))
        epochs = [partition["epoch"] for partition in cluster.json("partitions")["partitions"]]

        cluster.zookeeper.kill()
        wait_until(
            "the router notices",
            lambda: not cluster.json("status")["coordination_connected"],
        )
        for number in range(20):
            cluster.run("put", f"meanwhile{number}", str(number))
        for number in range(20):
            found = cluster.run("get", f"before{number}").stdout.decode().strip()
            expect(found == str(number), f"before{number} is {found!r} while ZooKeeper is away")

        cluster.zookeeper.start()
        wait_until("the cluster is healthy again", cluster.healthy)
        after = [partition["epoch"] for partition in cluster.json("partitions")["partitions"]]
        expect(after == epochs, f"epochs {epochs} became {after} over a restart of ZooKeeper")
        found = cluster.run("get", "meanwhile19").stdout.decode().strip()
        expect(found == "19", f"meanwhile19 is {found!r}")
        no_panics(cluster)
    finally:
        cluster.stop()


def a_zookeeper_without_its_data_costs_no_record(work, paddock):
    """ZooKeeper returns empty: no node starts over with empty partitions, each says what is wrong. When it returns
    with its data, everything is there and goes on."""
    cluster = Cluster(work / "cluster", paddock)
    data, kept = cluster.zookeeper.directory / "data", cluster.zookeeper.directory / "kept"
    stores = lambda: sorted(str(path) for node in cluster.nodes for path in node.directory.glob("data/partitions/*"))
    try:
        cluster.start()
        for number in range(20):
            cluster.run("put", f"key{number}", str(number))
        before = stores()
        cluster.zookeeper.kill()
        data.rename(kept)
        cluster.zookeeper.start()
        for node in cluster.nodes:
            log_says(node, "no longer holds this node's cluster")
        cluster.zookeeper.kill()
        shutil.rmtree(data)
        kept.rename(data)
        cluster.zookeeper.start()
        wait_until("the cluster is healthy again", cluster.healthy)
        for number in range(20):
            found = cluster.run("get", f"key{number}").stdout.decode().strip()
            expect(found == str(number), f"key{number} is {found!r}")
            cluster.run("put", f"key{number}", "again")
        expect(stores() == before, f"the stores {before} became {stores()}")
        no_panics(cluster)
    finally:
        cluster.stop()


def replicas(cluster, partition):
    """What `paddock partitions` says of a partition's replicas, by node."""
    found = cluster.json("partitions")["partitions"][partition]
    return {replica["node_id"]: replica for replica in found["replicas"]}


def keys_of_partition(cluster, partition, count, name):
    """Keys that a partition holds."""
    tag = next(tag for tag in range(1_000)
               if cluster.json("locate", f"{{{tag}}}")["partition"]["partition_id"] == partition)
    return [f"{name}{number}{{{tag}}}" for number in range(count)]


def restore(backup, directory):
    """Puts an older copy in the place of a directory."""
    shutil.rmtree(directory)
    shutil.copytree(backup, directory)


def an_older_copy_of_a_data_directory_counts_for_nothing(work, paddock):
    """A server's data directory is replaced by an older copy of itself, and the others are killed. It says so, and does not lead
    with what it has, though by its old generation it could: the partition waits, and says why. With the others back it is
    filled up, and every record is there."""
    cluster = Cluster(work / "cluster", paddock)
    try:
        cluster.start()
        partition = cluster.json("partitions")["partitions"][0]
        leader = partition["leader_node_id"]
        node = next(replica["node_id"] for replica in partition["replicas"] if replica["node_id"] != leader)
        server, other = cluster.node_process(node), cluster.node_process(leader)
        data, backup = server.directory / "data", work / "backup"
        keys = keys_of_partition(cluster, 0, 20, "k")
        for key in keys:
            cluster.run("put", key, "old")
        before = replicas(cluster, 0)[node]["generation"]
        server.stop()
        shutil.copytree(data, backup)
        server.start()
        wait_until("the cluster is healthy again", cluster.healthy)
        for key in keys:
            cluster.run("put", key, "new")

        server.stop()
        restore(backup, data)
        other.kill()
        server.start()
        log_says(server, "older copy")
        said = wait_until("the partition says that it is offline", lambda: offline(cluster, 0))
        expect(node in said or leader in said, said)
        after = wait_until("the restored server speaks", lambda: replicas(cluster, 0)[node]["generation"])
        expect(after != before, f"the older copy is of generation {before} still")
        late = cluster.run("--timeout-seconds", "2", "get", keys[0], check=False)
        expect(late.returncode == 5, f"a get of a partition that nobody leads: {late.returncode} {late.stdout}")

        other.start()
        wait_until("the cluster is healthy with all servers", cluster.healthy)
        for key in keys:
            found = cluster.run("get", key).stdout.decode().strip()
            expect(found == "new", f"{key} is {found!r}")
        expect(replicas(cluster, 0)[node]["generation"] == after, "another generation without a reason")
        no_panics(cluster)
    finally:
        cluster.stop()


def offline(cluster, partition):
    """Why a partition is offline, by `paddock partitions`; None if it is not, or does not say yet."""
    found = cluster.json("partitions", check=False)
    return found and found["partitions"][partition]["offline"] or None


def a_partition_whose_holders_are_lost_goes_on_by_command_alone(work, paddock):
    """Both servers that hold everything lose their disks, and a third has an older state. Nobody leads, and every place where one
    looks says why; nothing is recovered without an explicit word, nor while somebody could lead. Then what the third one has
    is there, the rest is lost, all three are filled up, and a session of before is told so."""
    cluster = Cluster(work / "cluster", paddock)
    try:
        cluster.start()
        nodes = [node["node_id"] for node in cluster.json("status")["nodes"]]
        third = next(node for node in nodes if node not in replicas(cluster, 0))
        cluster.run("add-replica", "0", third, "--wait", "--timeout-seconds", "30")
        early, late = keys_of_partition(cluster, 0, 10, "early"), keys_of_partition(cluster, 0, 10, "late")
        for key in early:
            cluster.run("put", key, "v")
        refused = cluster.run("recover", "0", "--accept-data-loss", check=False)
        expect(refused.returncode == 4 and b"nothing need be lost" in refused.stderr, f"it can be led: {refused.stderr}")
        wait_until("all are in sync", lambda: all(one["in_sync"] for one in replicas(cluster, 0).values()))

        cluster.node_process(third).stop()
        for key in late:
            result = cluster.run("put", key, "v", "--print-session")
        session = result.stderr.decode().split()[-1]
        lost = [cluster.node_process(node) for node in replicas(cluster, 0) if node != third]
        keeper = next(node for node in cluster.nodes if not node.child)
        for server in lost:
            server.kill()
            shutil.rmtree(server.directory / "data" / "partitions")
        keeper.start()

        said = wait_until("the partition says that it is offline", lambda: offline(cluster, 0))
        expect("paddock recover 0" in said and "not registered as live" in said, said)
        status = wait_until("status says so", lambda: [
            problem for problem in cluster.json("status")["problems"] if "is offline" in problem
        ])
        expect("paddock recover 0" in status[0], status[0])
        code, text = http_status(cluster.http_port, "/readyz")
        expect(code == 503 and "partition 0 is offline" in text, f"/readyz: {code} {text}")
        # On a slow machine the router's answer may come after the client has given up.
        told = lambda: cluster.run("--timeout-seconds", "2", "get", early[0], check=False)
        wait_until("a get says so", lambda: (result := told()).returncode == 5 and b"partition 0 is offline" in result.stderr)

        # Also when they are there again, without what they had.
        for server in lost:
            server.start()
        wait_until("they say that their data are gone", lambda: "other data" in (offline(cluster, 0) or ""))
        shown = cluster.run("recover", "0", check=False)
        expect(shown.returncode == 4 and b"--accept-data-loss" in shown.stderr, f"without consent: {shown.stderr}")
        expect(b"WILL BE LOST" in shown.stdout and third.encode() in shown.stdout, shown.stdout.decode())
        expect(offline(cluster, 0), "it was recovered without consent")
        done = json.loads(cluster.run("recover", "0", "--accept-data-loss", "-o", "json").stdout)
        expect(done["chosen_node_id"] == third and done["recovered"] and done["lineage"] == 1, str(done))

        wait_until("the cluster is healthy again", cluster.healthy)
        for key in early:
            found = cluster.run("get", key).stdout.decode().strip()
            expect(found == "v", f"{key} is {found!r}")
        gone = [cluster.run("get", key, check=False).returncode for key in late]
        expect(gone == [3] * len(late), f"what was lost is there, or fails: {gone}")
        stale = cluster.run("get", early[0], "--consistency", f"session={session}", check=False)
        expect(stale.returncode not in (0, 3), f"a session of before: {stale.returncode} {stale.stdout}")
        expect(b"may be lost" in stale.stderr, stale.stderr.decode())
        for key in late:
            cluster.run("put", key, "again")
        wait_until("all agree", lambda: len({
            (one["last_sequence"], one["applied_sequence"], one["lineage"]) for one in replicas(cluster, 0).values()
        }) == 1)
        no_panics(cluster)
    finally:
        cluster.stop()


def what_cannot_start_says_why(work, paddock):
    """A port in use, a directory in use, another cluster's data, a newer format, something else's directory,
    a flag that nobody knows, an endpoint where nobody listens: each by name, with its exit code."""
    cluster = Cluster(work / "cluster", paddock)
    clean = cluster.environment
    first = cluster.nodes[0]
    node_data = first.directory / "data"
    grpc, http, other_zookeeper = free_ports(3)

    def partition(data, port=0, zookeeper=cluster.zookeeper_port):
        return [
            paddock, "partition", "--zookeeper", f"127.0.0.1:{zookeeper}", "--cluster", "local",
            "--grpc", f"127.0.0.1:{port}", "--data", str(data), "--initial-nodes", "4",
        ]

    try:
        cluster.start()
        in_use = f"127.0.0.1:{cluster.node_ports[0]}"
        ends_with(partition(work / "fresh", cluster.node_ports[0]), 1, in_use, environment=clean)
        router_in_use = f"127.0.0.1:{cluster.grpc_port}"
        ends_with(
            [paddock, "router", *cluster.coordination(), "--grpc", router_in_use, "--http", f"127.0.0.1:{http}"],
            1, router_in_use, environment=clean,
        )
        ends_with(partition(node_data), 1, str(node_data), "another process", environment=clean)
        foreign = work / "foreign"
        foreign.mkdir()
        (foreign / "letter.txt").write_text("dear")
        ends_with(partition(foreign), 1, str(foreign), "not empty", environment=clean)
        expect([path.name for path in foreign.iterdir()] == ["letter.txt"], "a foreign directory was written to")

        # The data of this cluster, offered to another one.
        first.stop()
        stranger = Cluster(work / "stranger", paddock)
        stranger.zookeeper.start()
        try:
            wait_until("ZooKeeper serves", stranger.zookeeper_serves)
            own = json.loads((node_data / "NODE").read_text())["cluster"]
            ends_with(partition(node_data, zookeeper=stranger.zookeeper_port), 1, own, environment=clean)
        finally:
            stranger.zookeeper.stop()

        newer = work / "newer"
        shutil.copytree(node_data, newer)
        identity = json.loads((newer / "NODE").read_text())
        (newer / "NODE").write_text(json.dumps(identity | {"format": 99}))
        ends_with(partition(newer), 1, str(newer), "99", environment=clean)
        shutil.rmtree(newer)

        ends_with([paddock, "get", "--no-such-flag", "k"], 2, "--no-such-flag", environment=clean)
        nobody = f"http://127.0.0.1:{grpc}"
        ends_with([paddock, "--endpoint", nobody, "get", "k"], 5, nobody, environment=clean)

        first.start()
        wait_until("the cluster is healthy again", cluster.healthy)
        no_panics(cluster)
    finally:
        cluster.stop()


def bytes_from_nowhere_stop_nobody(work, paddock):
    """Noise, torn frames, oversized keys and values: an error, or a closed connection, and the servers go on."""
    cluster = Cluster(work / "cluster", paddock)
    noise = random.Random(7)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    try:
        cluster.start()
        ports = [cluster.grpc_port, cluster.http_port, *cluster.node_ports]
        for port in ports:
            for beginning in [b"", preface, b"GET / HTTP/1.1\r\n", b"POST /paddock.v1.KeyValueService/Put HTTP/1.1\r\n\r\n"]:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                    try:
                        connection.sendall(beginning + noise.randbytes(4096))
                        connection.shutdown(socket.SHUT_WR)
                        connection.settimeout(1)
                        while connection.recv(65536):
                            pass
                    except OSError:
                        pass
        too_long = "k" * 4097
        result = cluster.run("put", too_long, "v", check=False)
        expect(result.returncode == 1, f"a key of 4,097 bytes: {result.returncode}")
        told = result.stderr.decode()
        expect("4096" in told.replace(",", "") and "4097" in told.replace(",", ""), told)
        result = cluster.run("put", "big", "-", input=b"x" * ((1 << 20) + 1), check=False)
        expect(result.returncode == 1, f"a value of 1 MiB and a byte: {result.returncode}")
        expect("1048576" in result.stderr.decode().replace(",", ""), result.stderr.decode())
        result = cluster.run("put", "", "v", check=False)
        expect(result.returncode in (1, 2) and b"empty" in result.stderr, f"an empty key: {result.stderr}")
        for key in ["hex:00", "hex:6100", "a//../b?c%ff", "hex:fffe", "b64:AAEC"]:
            cluster.run("put", key, "v")
            expect(cluster.run("get", key).stdout.strip() == b"v", f"{key} is not what was put")
        cluster.run("put", "biggest", "-", input=b"y" * (1 << 20))
        expect(cluster.run("get", "biggest").stdout.rstrip(b"\n") == b"y" * (1 << 20), "the biggest value")
        expect(cluster.healthy(), "the cluster is healthy after all that")
        no_panics(cluster)
    finally:
        cluster.stop()


def a_full_disk_loses_nothing(work, paddock):
    """On a full disk puts are refused by name, what was acknowledged stays, deletes still work, and with room
    again so do puts; also after a kill -9 on the full disk."""
    # With a process namespace: whoever ends us ends all that runs in there.
    inside = ["unshare", "--mount", "--pid", "--fork", "--kill-child", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    probe = subprocess.run([*inside, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        raise Skipped(f"no mount namespace for a small disk here: {probe.stderr.strip()}")
    result = subprocess.run(
        [*inside, sys.executable, __file__, "--on-small-disk", str(work), "--paddock", paddock],
        capture_output=True, text=True, check=False,
    )
    expect(result.returncode == 0, (result.stdout + result.stderr).strip())


def on_small_disk(work, paddock):
    """The case above, in a mount namespace of its own, whose end unmounts the disk."""
    disk = work / "disk"
    disk.mkdir()
    resize = lambda option: subprocess.run(
        ["mount", "-t", "tmpfs", "-o", option, "tmpfs", disk], check=True
    )
    resize(f"size={DISK_FULL_MIB}m")
    grpc, http = free_ports(2)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PADDOCK_")}
    environment |= {"PADDOCK_ENDPOINT": f"http://127.0.0.1:{grpc}", "NO_COLOR": "1"}

    def run(*arguments, **options):
        return subprocess.run([paddock, *arguments], env=environment, capture_output=True, check=False, **options)

    def start():
        log = open(work / "dev.log", "ab")
        child = subprocess.Popen(
            [paddock, "dev", "--data", disk / "data", "--grpc", f"127.0.0.1:{grpc}", "--http", f"127.0.0.1:{http}"],
            stdout=log, stderr=log, env=environment,
        )
        try:
            wait_until("dev serves", lambda: child.poll() is not None or run("status").returncode == 0)
            expect(child.poll() is None, f"dev ended: {(work / 'dev.log').read_text()}")
            wait_until("dev reads", lambda: run("get", "nothing").returncode == 3)
        except BaseException:
            child.kill()
            raise
        return child

    def refused(result):
        text = result.stderr.decode()
        return result.returncode == 1 and "disk is full" in text and str(disk) in text

    value = b"z" * 500_000
    child = start()
    try:
        acknowledged = []
        for number in range(200):
            result = run("put", f"key{number}", "-", input=value)
            if result.returncode != 0:
                break
            acknowledged.append(f"key{number}")
        expect(refused(result), f"the last put: {result.returncode} {result.stderr.decode()}")
        expect(len(acknowledged) >= 4, f"only {len(acknowledged)} puts fitted")

        def all_there():
            for key in acknowledged:
                found = run("get", key)
                expect(found.returncode == 0 and found.stdout.rstrip(b"\n") == value, f"{key}: {found.stderr}")

        all_there()
        victim = acknowledged.pop(0)
        result = run("delete", victim)
        expect(result.returncode == 0, f"a delete on a full disk: {result.stderr.decode()}")
        child.send_signal(signal.SIGKILL)
        child.wait()
        child = start()
        all_there()
        expect(run("get", victim).returncode == 3, f"{victim} was deleted")
        resize(f"remount,size={4 * DISK_FULL_MIB}m")
        wait_until("puts work with room again", lambda: run("put", "after", "v").returncode == 0)
        all_there()
        child.terminate()
        expect(child.wait(timeout=20) == 0, "a graceful stop")
        expect("panicked" not in (work / "dev.log").read_text(), "a panic")
        print(f"{len(acknowledged) + 1} puts fitted")
    finally:
        child.kill()
        child.wait()


CASES = [
    zookeeper_comes_late_goes_away_and_returns,
    a_zookeeper_without_its_data_costs_no_record,
    an_older_copy_of_a_data_directory_counts_for_nothing,
    a_partition_whose_holders_are_lost_goes_on_by_command_alone,
    what_cannot_start_says_why,
    bytes_from_nowhere_stop_nobody,
    a_full_disk_loses_nothing,
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", choices=[[], *(case.__name__ for case in CASES)], help="which (all)")
    parser.add_argument("--paddock", help="the command to test (the newest in target/)")
    parser.add_argument("--on-small-disk", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    paddock = str(pathlib.Path(arguments.paddock or default_binary()).resolve())
    if arguments.on_small_disk:
        on_small_disk(arguments.on_small_disk, paddock)
        return
    end_on_sigterm()
    chosen = [case for case in CASES if not arguments.case or case.__name__ in arguments.case]
    failed = skipped = 0
    for case in chosen:
        began = time.monotonic()
        work = pathlib.Path(tempfile.mkdtemp(prefix=f"paddock-{case.__name__[:16]}-"))
        try:
            case(work, paddock)
            print(f"ok   {case.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
            shutil.rmtree(work)
        except Skipped as error:
            skipped += 1
            print(f"skip {case.__name__}: {error}", flush=True)
            shutil.rmtree(work)
        except (Failed, ClusterError, OSError, subprocess.SubprocessError) as error:
            failed += 1
            print(f"FAIL {case.__name__}: {error}\n     logs: {work}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL {case.__name__}:\n{traceback.format_exc()}     logs: {work}", flush=True)
    rest = f", {skipped} skipped" if skipped else ""
    print(f"{len(chosen) - failed - skipped} passed, {failed} failed{rest}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
