"""Makes docs/paths.md of what was recorded."""

SIGNS = {"admin": "**A**", "public": "P", "moved": "m", "nothing": "·", "refused": "×"}

INTRO = """# What servers make of a path

Servers read one path in different ways: `/public/..;/admin/x` is below `/public` for nginx and below `/admin` for Tomcat. A proxy that
reads it in one way, in front of a server that reads it in another, lets a stranger in. So Sidegate looks at *every* way in which a common
server reads a path, and lets a request in only where the rules let it in under each of them (`proxy/src/domain/readings.rs`).

This page is how that is known. `scripts/paths` starts {servers} servers on loopback, each with a guarded `/admin/` and an open `/public/`,
sends each of the {paths} paths of [the corpus](../proxy/tests/paths/corpus.txt) to each as it is written, and notes what was served.
Then it holds the record against the readings: **{answers} answers, no hole**. A hole would be a path that a server serves from
`/admin` while no reading of it is there (of servers that take no account of case: no reading without case).
The page is made by `scripts/paths`; do not edit it.

```sh
scripts/paths           # installs the servers (as root, on Debian), records, and makes this page again
scripts/paths --check   # the same, but fails where a server answers otherwise than it is recorded
```

`make test` holds the record ([recorded.tsv](../proxy/tests/paths/recorded.tsv), [readings.tsv](../proxy/tests/paths/readings.tsv)) against
the readings without the servers, and leaves each step of the readings out in turn, to see that the record notices.

## The servers

*Elsewhere* counts the paths that are not written below `/admin` and that the server serves from there all the same.
*Case*: the server takes `/ADMIN` for `/admin`; rules for it must take no account of case either.

"""

PATHS = """
## The paths

**A** the server served `/admin`, P `/public`, m it sent the client elsewhere (that request is judged again), · nothing is there,
× it refused. *Rules*: what Sidegate decides for a person who is signed in and may not enter `/admin`, by the rules `/public/**` = `"public"`
and `/admin/**` = `"nobody"`: *open* to everybody, *in* for the signed-in, *no*. *n* is the number of readings.
"""


def code(text):
    # A bar would end the cell, a backtick the code.
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}".replace("|", "\\|")


def below(path, place):
    return path == place or path.startswith(place + "/")


def decision(written, opened, others):
    readings = [written, *others]
    if opened == "refused":
        return "400"
    if any(below(reading, "/admin") for reading in readings):
        return "no"
    if opened == "may be opened" and all(below(reading, "/public") for reading in readings):
        return "open"
    return "in"


def of(recorded, readings, corpus, columns):
    lines = [line.split("\t") for line in recorded.splitlines()]
    names, rows = lines[0][1:], {line[0]: line[1:] for line in lines[1:]}
    readings = dict(zip(rows, (line.split("\t") for line in readings.splitlines())))
    text = INTRO.format(paths=len(rows), servers=len(names), answers=len(rows) * len(names))
    text += "| | server | `/admin` | elsewhere | `/public` | moved | nothing | refused | case |\n"
    text += "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n"
    for at, name in enumerate(names):
        served = {path: row[at] for path, row in rows.items()}
        count = lambda what: sum(1 for one in served.values() if one == what)
        elsewhere = sum(1 for path, one in served.items() if one == "admin" and not below(path.split("?")[0], "/admin"))
        case = "ignored" if served["/ADMIN/x"] == "admin" else ""
        text += (f"| {at + 1} | {columns[name]} | {count('admin')} | {elsewhere} | {count('public')} | {count('moved')} "
                 f"| {count('nothing')} | {count('refused')} | {case} |\n")
    text += PATHS
    head = "| path | rules | n | " + " | ".join(str(at + 1) for at in range(len(names))) + " |\n| --- | --- | ---: |"
    head += " :-: |" * len(names) + "\n"
    for line in corpus.splitlines():
        if line.startswith("# ") and not line.startswith(("# Paths that", "# is a heading", "# The servers")):
            text += f"\n### {line[2:].capitalize()}\n\n{head}"
        elif line and not line.startswith("# "):
            written, opened, *others = readings[line]
            others = [other for other in others if other]
            count = "" if opened == "refused" else len(others) + 1
            text += (f"| {code(line)} | {decision(written, opened, others)} | {count} | "
                     + " | ".join(SIGNS[one] for one in rows[line]) + " |\n")
    return text
