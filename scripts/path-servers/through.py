"""Sends each path of the corpus through Sidegate, to each server: what a public rule opens never leads to what is closed, and nobody
reaches what they may not.

through.py BUILT PROGRAMS    PROGRAMS is the folder with `sidegate` and `dev-idp`
"""
import re
import socket
import subprocess
import sys
import tempfile
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from run import answer, corpus, served
from servers import COLUMNS, Servers
from programs import free_ports

PUBLIC = "localhost:8080"
# Who reads paths without regard to case, and so needs UPSTREAM_IGNORE_CASE.
IGNORE_CASE = ("caddy", "express")
RULES = """
[[routes]]
name = "public"
path = "/public/**"
allow = "public"

[[routes]]
name = "admin"
path = "/admin/**"
allow = ["ann"]
"""


class Programs:
    """Programs that run until the end."""

    def __init__(self):
        self.running = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in self.running:
            one.kill()
        for one in self.running:
            one.wait()

    def start(self, program, environment, says):
        one = subprocess.Popen([program], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.running.append(one)
        for line in one.stderr:
            if says in line:
                # Whoever writes on is not to wait for us.
                ThreadPoolExecutor(1).submit(one.stderr.read)
                return
        raise SystemExit(f"paths: {program} did not start")


def field(reply, name):
    found = re.search(rf"(?im)^{name}: *(.*?)\r?$".encode(), reply)
    return found[1].decode() if found else ""


def post(port, target, form):
    body = urllib.parse.urlencode(form).encode()
    head = (f"POST {target} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n").encode()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as stream:
        stream.sendall(head + body)
        parts = []
        while part := stream.recv(65536):
            parts.append(part)
        return b"".join(parts)


def sign_in(proxy, user):
    """The session cookie of somebody who has signed in."""
    begun = answer(proxy, "/api/v1/auth/login", host=PUBLIC)
    authorize = urllib.parse.urlsplit(field(begun, "location"))
    form = dict(urllib.parse.parse_qsl(authorize.query), user=user)
    decided = post(authorize.port, f"{authorize.path}/decision", form)
    callback = urllib.parse.urlsplit(field(decided, "location"))
    attempt = field(begun, "set-cookie").split(";")[0]
    done = answer(proxy, f"{callback.path}?{callback.query}", f"Cookie: {attempt}\r\n", PUBLIC)
    cookies = re.findall(rb"(?im)^set-cookie: *(session_token=[^;\r]+)", done)
    if not cookies:
        raise SystemExit(f"paths: {user} could not sign in: {done[:300]!r}")
    return cookies[0].decode()


def main():
    built, programs = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    paths = corpus()
    with tempfile.TemporaryDirectory(prefix="paths-") as work, Programs() as running, \
            Servers(built, Path(work)) as servers:
        idp, *ports = free_ports(1 + 2 * len(COLUMNS))
        rules = Path(work) / "sidegate.toml"
        rules.write_text(RULES, encoding="utf-8")
        running.start(programs / "dev-idp", {
            "DEV_IDP_LISTEN_ADDR": f"127.0.0.1:{idp}",
            "DEV_IDP_REDIRECT_URL": f"http://{PUBLIC}/api/v1/auth/callback",
        }, "")
        proxies = {}
        for at, name in enumerate(COLUMNS):
            proxies[name] = ports[2 * at]
            running.start(programs / "sidegate", {
                "SIDEGATE_CONFIG": str(rules),
                "LISTEN_ADDR": f"127.0.0.1:{ports[2 * at]}",
                "ADMIN_ADDR": f"127.0.0.1:{ports[2 * at + 1]}",
                "UPSTREAM_URL": f"http://127.0.0.1:{servers.ports[name]}",
                "UPSTREAM_IGNORE_CASE": str(name in IGNORE_CASE).lower(),
                "OAUTH_ENABLED": "true",
                "OAUTH_PROVIDER": "github",
                "OAUTH_GITHUB_URL": f"http://localhost:{idp}",
                "OAUTH_GITHUB_API_URL": f"http://localhost:{idp}",
                "OAUTH_CLIENT_ID": "sidegate-dev",
                "OAUTH_CLIENT_SECRET": "sidegate-dev-secret",
                "OAUTH_REDIRECT_URL": f"http://{PUBLIC}/api/v1/auth/callback",
                "OAUTH_ALLOWED_USERS": "ann,bob",
                # One session for all of them.
                "SESSION_STORE": "jwt",
                "SESSION_SECRET": "cGF0aHMtcGF0aHMtcGF0aHMtcGF0aHMtcGF0aHMtcGF0aHM=",
                "LOG_FORMAT": "json",
            }, "sidegate is ready")
        first = next(iter(proxies.values()))
        cookies = {user: f"Cookie: {sign_in(first, user)}\r\n" for user in ("ann", "bob")}
        askers = {"nobody": "", "bob": cookies["bob"], "ann": cookies["ann"]}

        def of_one(name):
            return {asker: [served(answer(proxies[name], path, headers)) for path in paths]
                    for asker, headers in askers.items()}

        with ThreadPoolExecutor(4) as pool:
            outcomes = dict(zip(COLUMNS, pool.map(of_one, COLUMNS)))
    holes = [(name, asker, path) for name, by in outcomes.items() for asker in ("nobody", "bob")
             for path, what in zip(paths, by[asker]) if what == "admin"]
    for name, asker, path in holes:
        print(f"HOLE: {asker} reached /admin/ of {name} by {path}", file=sys.stderr)
    # The suite would prove nothing if nothing came through.
    opened = sum(by["nobody"].count("public") for by in outcomes.values())
    admins = sum(by["ann"].count("admin") for by in outcomes.values())
    for name, by in outcomes.items():
        if "public" not in by["nobody"] or "admin" not in by["ann"]:
            raise SystemExit(f"paths: nothing came through to {name}")
    print(f"paths: {len(paths)} paths, {len(COLUMNS)} servers, {len(askers)} askers through Sidegate: "
          f"{len(holes)} holes ({opened} times public things for nobody, {admins} times admin's for ann)")
    if holes:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
