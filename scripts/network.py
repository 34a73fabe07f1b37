"""A network of its own for a test: every process has its own address, and can be cut off from others, in one direction or both.

Made of network namespaces, inside one that only this test sees: nothing of the machine's network is touched, and
when the test ends, however it ends, the kernel removes all of it. Needs root, or a kernel that lets users have
namespaces of their own.
"""

import os
import pathlib
import subprocess
import sys

ENTERED = "PADDOCK_TEST_NETWORK"
SUBNET = "10.77.0"
BRIDGE = "bridge"
HOOKS = {"incoming": ("input", "iifname", "saddr"), "outgoing": ("output", "oifname", "daddr")}
"""Each direction: where the kernel asks, and how it calls the interface and the other side there."""


class NetworkError(Exception):
    """The network could not be made, or changed."""


def enter():
    """Starts this script anew in a network of its own, unless it is there already."""
    if os.environ.get(ENTERED):
        return
    unshare = ["unshare", "--net", "--mount", "--propagation", "private"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
    probe = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        raise NetworkError(f"no network of our own: {probe.stderr.strip()} (run it as root)")
    os.environ[ENTERED] = "1"
    os.execvp(unshare[0], [*unshare, sys.executable, *sys.argv])


class Network:
    """Where the processes live. Who runs this script, and the commands that it runs, are on the bridge, which nobody cuts."""

    def __init__(self):
        self.names = []
        # Where names of namespaces are kept: on a file system that only this test sees.
        namespaces = pathlib.Path("/run/netns")
        namespaces.mkdir(exist_ok=True)
        run("mount", "-t", "tmpfs", "tmpfs", namespaces)
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{SUBNET}.1/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")

    def close(self):
        """Removes all of it, so that another one can be made. Nobody may live there any more."""
        for name in self.names:
            run("ip", "netns", "delete", name)
        run("ip", "link", "delete", BRIDGE)
        run("umount", "/run/netns")

    def address(self, name):
        """The address of a process. Whoever was not heard of before gets one."""
        if name not in self.names:
            self.add(name)
        return f"{SUBNET}.{self.names.index(name) + 2}"

    def add(self, name):
        self.names.append(name)
        number = len(self.names) - 1
        run("ip", "netns", "add", name)
        run("ip", "link", "add", f"here-{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", f"here-{number}", "master", BRIDGE, "up")
        self.inside(name, "ip", "address", "add", f"{SUBNET}.{number + 2}/24", "dev", "eth0")
        self.inside(name, "ip", "link", "set", "lo", "up")
        self.inside(name, "ip", "link", "set", "eth0", "up")
        self.inside(name, "nft", "add", "table", "ip", "faults")
        for hook, _, _ in HOOKS.values():
            chain = f"{{ type filter hook {hook} priority 0; }}"
            self.inside(name, "nft", "add", "chain", "ip", "faults", hook, chain)

    def command(self, name, command):
        """How a process is started so that it lives there. It becomes the process: its pid is the one that is known."""
        self.address(name)
        return ["ip", "netns", "exec", name, *command]

    def cut(self, name, directions=("incoming", "outgoing"), peer=None):
        """Drops every packet that comes in, or goes out, or both; only a peer's, if one is named. Until it is healed.

        Nobody is told: connections stay open, and what is sent is lost without an answer.
        """
        for direction in directions:
            hook, interface, side = HOOKS[direction]
            whose = ["ip", side, self.address(peer)] if peer else [interface, "eth0"]
            self.inside(name, "nft", "add", "rule", "ip", "faults", hook, *whose, "drop")

    def heal(self, name):
        """Lets everything through again."""
        for hook, _, _ in HOOKS.values():
            self.inside(name, "nft", "flush", "chain", "ip", "faults", hook)

    def inside(self, name, *command):
        run("ip", "netns", "exec", name, *command)


class Loopback:
    """Where the processes live when there is no such network: all on this machine's own address."""

    def address(self, _name):
        return "127.0.0.1"

    def command(self, _name, command):
        return command


def run(*command):
    command = [str(part) for part in command]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise NetworkError(f"{' '.join(command)}: {result.stderr.strip()}")
