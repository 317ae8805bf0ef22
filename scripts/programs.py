"""Programs of a script that run until its end, on ports of their own."""
import contextlib
import random
import socket
import subprocess
import time


def free_ports(count):
    """Free ports. The kernel hands out none below 32768, so no connection and no server that asks for any port gets one meanwhile."""
    ports = []
    for port in random.sample(range(10_000, 30_000), 20_000):
        if len(ports) == count:
            break
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


class Programs:
    """Started in a folder, where each has its log; all are stopped at the end."""

    def __init__(self, work):
        self.work, self.running = work, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in self.running:
            one.terminate()
        for one in self.running:
            try:
                one.wait(10)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()

    def start(self, name, command, ports, environment):
        """Starts one, and waits until it listens on its ports."""
        log = self.work / f"{name}.log"
        with log.open("wb") as out:
            one = subprocess.Popen(command, env=environment, cwd=self.work, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.running.append(one)
        deadline = time.monotonic() + 60
        for port in ports:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    if one.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit(f"{name} did not start:\n{log.read_text(errors='replace')[-4000:]}") from None
                    time.sleep(0.05)
