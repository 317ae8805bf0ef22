"""Sends each path of the corpus, as it is written, to each server, and records what was served.

run.py BUILT            records in proxy/tests/paths/recorded.tsv and makes docs/paths.md of it
run.py BUILT --check    fails where a server answers otherwise than it is recorded
"""
import re
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import table
from servers import COLUMNS, Servers

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "proxy" / "tests" / "paths" / "corpus.txt"
READINGS = ROOT / "proxy" / "tests" / "paths" / "readings.tsv"
RECORDED = ROOT / "proxy" / "tests" / "paths" / "recorded.tsv"


def corpus():
    lines = CORPUS.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("# ")]


def answer(port, target, headers="", host="127.0.0.1"):
    """The bytes of the answer to a GET of `target`, which goes out as it is written."""
    request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n".encode()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as stream:
            stream.sendall(request)
            parts = []
            while part := stream.recv(65536):
                parts.append(part)
            return b"".join(parts)
    except ConnectionError:
        return b""


def served(reply):
    """What an answer means: `admin` and `public` were served, `moved` elsewhere, `nothing` there, or `refused`."""
    status = re.match(rb"HTTP/1\.[01] (\d{3})", reply)
    code = int(status[1]) if status else 0
    if b"served: admin" in reply:
        return "admin"
    if b"served: public" in reply:
        return "public"
    if 300 <= code < 400:
        return "moved"
    return "nothing" if code in (200, 404) else "refused"


def record(ports, paths):
    def of_one(name):
        return [served(answer(ports[name], path)) for path in paths]

    with ThreadPoolExecutor(4) as pool:
        columns = list(pool.map(of_one, COLUMNS))
    lines = ["\t".join(["path", *COLUMNS])]
    lines += ["\t".join([path, *(column[at] for column in columns)]) for at, path in enumerate(paths)]
    return "\n".join(lines) + "\n"


def hold_against_readings():
    """Runs the tests of `make test` that hold the record against the readings; takes the readings over where they are new."""
    written = ROOT / "target" / "readings.tsv"
    written.unlink(missing_ok=True)
    # Of the whole workspace, as `make test` builds it: by itself the package would be built anew, with other features of what it uses.
    command = ["cargo", "test", "--quiet", "--locked", "--workspace", "--lib", "readings::recorded"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if written.exists():
        written.replace(READINGS)
        print("paths: the readings of the corpus are new: read the change of readings.tsv", file=sys.stderr)
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{run.stdout}{run.stderr}paths: the record and the readings do not agree")


def main():
    built, check = Path(sys.argv[1]).resolve(), "--check" in sys.argv[2:]
    with tempfile.TemporaryDirectory(prefix="paths-") as work, Servers(built, Path(work)) as servers:
        recorded = record(servers.ports, corpus())
    if check:
        known = RECORDED.read_text(encoding="utf-8")
        for was, now in zip(known.splitlines(), recorded.splitlines()):
            if was != now:
                print(f"recorded: {was}\nnow:      {now}", file=sys.stderr)
        if known != recorded:
            raise SystemExit("paths: a server answers otherwise than it is recorded")
    RECORDED.write_text(recorded, encoding="utf-8")
    hold_against_readings()
    page = table.of(recorded, READINGS.read_text(encoding="utf-8"), CORPUS.read_text(encoding="utf-8"), COLUMNS)
    (ROOT / "docs" / "paths.md").write_text(page, encoding="utf-8")
    rows = recorded.splitlines()[1:]
    print(f"paths: {len(rows)} paths, {len(COLUMNS)} servers, {len(rows) * len(COLUMNS)} answers recorded, no hole")


if __name__ == "__main__":
    main()
