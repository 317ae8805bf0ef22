"""Sends Autobahn's WebSocket cases and h2spec's through Sidegate, and says what came of them: docs/protocols.md.

run.py TOOLS PYTHON2 SIDEGATE [CASES]    CASES: only these of Autobahn's (`1.*`); `*` is all, with those that are LONG
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from programs import Programs, free_ports

HERE = Path(__file__).resolve().parent

# Autobahn calls these passed. NON-STRICT: allowed, and not what it likes best; INFORMATIONAL: the protocol leaves it open.
PASSED = ("OK", "NON-STRICT", "INFORMATIONAL")

# Compressed messages (12 and 13, each with one setting) of more than 1 KiB, a thousand in each case: they take an hour and more.
LONG = [f"{group}.{setting}.{size}" for group, settings in ((12, 5), (13, 7)) for setting in range(1, settings + 1) for size in range(5, 19)]

# Why something is otherwise than its suite wants: the listener or the way, a pattern of the case's name, the reason.
EXPLAINED = [
    ("websocket .*", r"^7\.1\.5$",
     "The server behind answers a close within a fragmented message with another code than Autobahn wants; Sidegate passes on what it says."),
    # Each sends a good message and a fault behind it, and calls the fault alone NON-STRICT.
    ("websocket .*", r"^(3\.[2-4]|4\.[12]\.[3-5]|5\.15)$",
     "Both pass. Which of the two depends on whether an echo arrives before the fault behind it is answered: a matter of moments."),
    ("h2spec .*", r"http2/3\.5 Sends invalid connection preface",
     "The port speaks HTTP/1.1 as well: what does not begin as HTTP/2 does is read as HTTP/1.1, answered 400 and closed. h2spec reads that answer as a frame."),
]


def why(where, case):
    for place, pattern, reason in EXPLAINED:
        if re.fullmatch(place, where) and re.search(pattern, case):
            return reason
    return None


class Tally:
    """What came of all suites."""

    def __init__(self):
        self.unexplained = 0

    def tell(self, where, counts, others):
        print(f"{where}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
        for case, what in others:
            reason = why(where, case)
            self.unexplained += reason is None
            print(f"  {case}: {what}\n    {reason or 'NOT EXPLAINED'}")
        sys.stdout.flush()


class Autobahn:
    """Each case one way, in a process of its own."""

    def __init__(self, tools, python2, work, way, url, cases, left_out):
        self.way, self.folder = way, work / f"autobahn {way}"
        self.folder.mkdir()
        spec = self.folder / "spec.json"
        spec.write_text(json.dumps({
            "outdir": str(self.folder / "report"), "servers": [{"agent": "it", "url": url}],
            "cases": cases, "exclude-cases": left_out, "exclude-agent-cases": {},
        }), encoding="utf-8")
        self.began, self.log = time.monotonic(), self.folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([python2, HERE / "wstest.py", tools / "autobahn", spec], stdout=log, stderr=log)

    def results(self):
        ended = self.process.wait()
        report = self.folder / "report" / "index.json"
        if ended != 0 or not report.exists():
            raise SystemExit("protocols-test: Autobahn failed:\n" + self.log.read_text(errors="replace")[-4000:])
        return json.loads(report.read_text(encoding="utf-8"))["it"]


def compare(way, results, alone, tally):
    """What does not pass through Sidegate, and what passes otherwise than with the server alone."""
    if set(results) != set(alone) or not results:
        raise SystemExit(f"protocols-test: {way}: {len(results)} cases of {len(alone)} ran")
    counts = Counter(result["behavior"] for result in results.values())
    others = []
    for case in sorted(results, key=lambda name: [int(part) for part in name.split(".")]):
        got = (results[case]["behavior"], results[case]["behaviorClose"])
        usual = (alone[case]["behavior"], alone[case]["behaviorClose"])
        if got != usual:
            others.append((case, f"{'/'.join(got)}, by the server alone {'/'.join(usual)}"))
        elif got[0] not in PASSED or got[1] not in PASSED:
            others.append((case, f"{'/'.join(got)}, by the server alone as well"))
    tally.tell(f"websocket {way} ({len(results)} cases)", counts, others)


def h2spec(tools, work, where, port, flags, tally):
    report = work / "h2spec.xml"
    report.unlink(missing_ok=True)
    ended = subprocess.run(
        [tools / "h2spec", "--host", "127.0.0.1", "--port", str(port), "--junit-report", report, *flags],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if not report.exists():
        raise SystemExit(f"protocols-test: h2spec failed ({ended.returncode}):\n{ended.stdout[-4000:]}")
    counts, others = Counter(passed=0, skipped=0, failed=0), []
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        for case in suite.iter("testcase"):
            name = f"{case.get('package', suite.get('package'))} {case.get('classname', '')}".strip()
            bad = case.find("failure") if case.find("failure") is not None else case.find("error")
            if bad is not None:
                counts["failed"] += 1
                others.append((name, " ".join((bad.text or "").split())))
            elif case.find("skipped") is not None:
                counts["skipped"] += 1
                others.append((name, "skipped"))
            else:
                counts["passed"] += 1
    if not counts["passed"]:
        raise SystemExit(f"protocols-test: h2spec ran nothing:\n{ended.stdout[-4000:]}")
    tally.tell(where, counts, others)


def certificate(work):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", work / "tls.key", "-out", work / "tls.crt"], check=True, stderr=subprocess.DEVNULL)
    return {"TLS_CERT_FILE": str(work / "tls.crt"), "TLS_KEY_FILE": str(work / "tls.key")}


def main():
    tools, python2, sidegate, cases = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]).resolve(), sys.argv[4:]
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="protocols-") as folder, Programs(Path(folder)) as programs:
        work = Path(folder)
        echo, plain, *ports = free_ports(10)
        programs.start("upstream", [sys.executable, HERE / "upstream.py", str(echo), str(plain)], [echo, plain], {
            # Its own limit of 4096 is less than what Autobahn sends in 9.3 and 9.4.
            **os.environ, "WEBSOCKETS_MAX_FRAGMENTS": "1000000"})
        tls = certificate(work)
        listens = {}
        for at, (name, upstream, more) in enumerate([
            ("websockets", echo, {}), ("websockets by TLS", echo, tls), ("pages", plain, {}), ("pages by TLS", plain, tls),
        ]):
            listens[name], admin = ports[2 * at], ports[2 * at + 1]
            programs.start(name, [sidegate], [listens[name], admin], {
                "LISTEN_ADDR": f"127.0.0.1:{listens[name]}", "ADMIN_ADDR": f"127.0.0.1:{admin}",
                "UPSTREAM_URL": f"http://127.0.0.1:{upstream}", "LOG_LEVEL": "warn", **more,
            })
        for where, flags in (("pages", []), ("pages by TLS", ["--tls", "--insecure"])):
            name = "h2spec h2c" if not flags else "h2spec TLS"
            h2spec(tools, work, name, listens[where], flags, tally)
            h2spec(tools, work, f"{name} strict", listens[where], [*flags, "--strict"], tally)
        left_out = [] if cases else LONG
        ways = [Autobahn(tools, python2, work, way, url, cases or ["*"], left_out) for way, url in (
            ("alone", f"ws://127.0.0.1:{echo}"),
            ("through", f"ws://127.0.0.1:{listens['websockets']}"),
            ("through TLS", f"wss://127.0.0.1:{listens['websockets by TLS']}"),
        )]
        programs.running.extend(way.process for way in ways)
        results = {way.way: way.results() for way in ways}
        for way, found in results.items():
            compare(way, found, results["alone"], tally)
        print(f"{time.monotonic() - ways[0].began:.0f} s")
    if tally.unexplained:
        raise SystemExit(f"protocols-test: {tally.unexplained} not explained")
    print("protocols-test: nothing is left unexplained")


main()
