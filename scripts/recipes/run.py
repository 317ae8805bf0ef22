"""Runs applications behind Sidegate as the pages of docs/recipes say, and sees who is who there.

run.py APPLICATIONS PROGRAMS    two folders: the programs of an environment with JupyterLab and Radicale, and one with `sidegate` and `dev-idp`
"""
import http.client
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from programs import Programs, free_ports

PAGES = Path(__file__).resolve().parents[2] / "docs" / "recipes"


def files(page, replaced):
    """The blocks of a page that begin with a file's name, with the places of this run put in."""
    found = dict(re.findall(r"^```\w+\n# (\S+\.\w+)\n(.*?)^```$", (PAGES / page).read_text(encoding="utf-8"), re.M | re.S))
    for name, text in found.items():
        for old, new in replaced.items():
            text = text.replace(old, new)
        found[name] = text
    return found


class Person:
    """Somebody's client: it keeps cookies, and says what it likes."""

    def __init__(self, port, host):
        self.port, self.host, self.cookies = port, host, {}

    def head(self, fields):
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        # As the proxy that ends TLS in front says it.
        return {"Host": self.host, "X-Forwarded-Proto": "https", **({"Cookie": cookies} if cookies else {}), **fields}

    def ask(self, method, path, body=None, **fields):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, self.head({name.replace("_", "-"): value for name, value in fields.items()}))
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        for cookie in answer.headers.get_all("Set-Cookie") or []:
            name, value = cookie.split(";")[0].split("=", 1)
            self.cookies[name] = value
        connection.close()
        return answer.status, text, answer.headers.get("Location") or ""

    def come_back(self, user):
        """What Sidegate answers when the provider sends this user back."""
        status, _, authorize = self.ask("GET", "/api/v1/auth/login")
        assert status == 302, status
        place = urllib.parse.urlsplit(authorize)
        form = urllib.parse.urlencode(dict(urllib.parse.parse_qsl(place.query), user=user))
        provider = http.client.HTTPConnection("127.0.0.1", place.port, timeout=30)
        provider.request("POST", f"{place.path}/decision", form, {
            "Host": place.netloc, "Content-Type": "application/x-www-form-urlencoded"})
        back = urllib.parse.urlsplit(provider.getresponse().headers["Location"])
        return self.ask("GET", f"{back.path}?{back.query}")

    def sign_in(self, user):
        status, text, _ = self.come_back(user)
        assert status == 302, f"{user} could not sign in: {status} {text[:300]}"
        return self

    def websocket(self, path):
        stream = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        lines = self.head({
            "Connection": "Upgrade", "Upgrade": "websocket", "Origin": f"https://{self.host}",
            "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})
        stream.sendall("\r\n".join([f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items()), "", ""]).encode())
        read = b""
        while b"\r\n\r\n" not in read:
            part = stream.recv(4096)
            assert part, f"closed before an answer: {read!r}"
            read += part
        return stream, read.decode(errors="replace")


def expect(what, got, wanted):
    if got != wanted:
        raise SystemExit(f"recipes-test: {what}: {got!r} in the place of {wanted!r}")
    print(f"  {what}")


def sidegate(running, programs, work, name, host, config):
    """Signs people in at `host` with the development provider; its port."""
    idp, port, admin = free_ports(3)
    callback = f"https://{host}/api/v1/auth/callback"
    file = work / f"{name}.toml"
    file.write_text(config, encoding="utf-8")
    running.start(f"{name} dev-idp", [programs / "dev-idp"], [idp], {
        "DEV_IDP_LISTEN_ADDR": f"127.0.0.1:{idp}", "DEV_IDP_REDIRECT_URL": callback})
    running.start(f"{name} sidegate", [programs / "sidegate"], [port], {
        "SIDEGATE_CONFIG": str(file), "LISTEN_ADDR": f"127.0.0.1:{port}", "ADMIN_ADDR": f"127.0.0.1:{admin}",
        "TRUSTED_PROXIES": "127.0.0.1", "UPSTREAM_URL": "http://127.0.0.1:9",
        "OAUTH_ENABLED": "true", "OAUTH_PROVIDER": "github", "OAUTH_REDIRECT_URL": callback,
        "OAUTH_GITHUB_URL": f"http://localhost:{idp}", "OAUTH_GITHUB_API_URL": f"http://localhost:{idp}",
        "OAUTH_CLIENT_ID": "sidegate-dev", "OAUTH_CLIENT_SECRET": "sidegate-dev-secret", "OAUTH_ALLOWED_USERS": "ann,bob",
    })
    return port


def check(applications, programs, work):
    """What Sidegate is told on each page is what it understands, also where the application cannot be had."""
    print("Pages")
    # In the place of files that pages name.
    token = work / "token"
    token.write_text("a-token-of-the-test", encoding="utf-8")
    roots = subprocess.run(
        [applications / "python", "-c", "import certifi; print(certifi.where())"], capture_output=True, text=True, check=True).stdout.strip()
    for page in sorted(PAGES.glob("*.md")):
        config = files(page.name, {}).get("sidegate.toml")
        if config is None or page.read_text(encoding="utf-8").count("\n```toml\n") != 1:
            raise SystemExit(f"recipes-test: {page.name} has not one block of TOML, which begins with `# sidegate.toml`")
        config = re.sub(r'^token_file = ".*?"', f'token_file = "{token}"', config, flags=re.M)
        config = re.sub(r'^ca_file = ".*?"', f'ca_file = "{roots}"', config, flags=re.M)
        file = work / "checked.toml"
        file.write_text(config, encoding="utf-8")
        checked = subprocess.run([programs / "sidegate", "check"], capture_output=True, text=True, check=False, env={
            "SIDEGATE_CONFIG": str(file), "OAUTH_ENABLED": "true", "OAUTH_PROVIDER": "github", "OAUTH_CLIENT_ID": "an-id",
            "OAUTH_CLIENT_SECRET": "a-secret-of-the-test", "OAUTH_REDIRECT_URL": "https://example.com/api/v1/auth/callback",
            "OAUTH_ALLOWED_USERS": "ann,bob"})
        expect(page.name, (checked.returncode, checked.stderr if checked.returncode else ""), (0, ""))
        # Sidegate warns of a rule for everybody whom the provider signs in, where there is a list of fewer.
        if "signed-in" in checked.stderr:
            raise SystemExit(f"recipes-test: {page.name} lets in people whom no list names: {checked.stderr}")


def jupyter(running, applications, programs, work):
    print("JupyterLab")
    (app,) = free_ports(1)
    pages = files("jupyter.md", {"127.0.0.1:8888": f"127.0.0.1:{app}"})
    config = work / "jupyter_server_config.py"
    config.write_text(pages["jupyter_server_config.py"], encoding="utf-8")
    home = work / "home"
    home.mkdir()
    running.start("jupyter", [
        applications / "jupyter", "lab", "--no-browser", "--config", config, f"--port={app}", "--allow-root", f"--ServerApp.root_dir={home}",
    ], [app], {"PATH": f"{applications}:/usr/bin:/bin", "HOME": str(home), "JUPYTER_CONFIG_DIR": str(home)})
    host = "jupyter.example.com"
    port = sidegate(running, programs, work, "jupyter", host, pages["sidegate.toml"])

    expect("nobody is refused", Person(port, host).ask("GET", "/api/me", X_Remote_User="ann")[0], 401)
    bob = Person(port, host).sign_in("bob")
    expect("another person is refused", bob.ask("GET", "/api/me", X_Remote_User="ann")[0], 403)
    ann = Person(port, host).sign_in("ann")
    status, page, _ = ann.ask("GET", "/lab", Accept="text/html")
    expect("its owner gets the page", (status, "JupyterLab" in page), (200, True))
    status, me, _ = ann.ask("GET", "/api/me", X_Remote_User="eve", X_REMOTE_USER="eve")
    expect("Jupyter knows her by her own name", (status, json.loads(me)["identity"]["username"]), (200, "ann"))
    status, kernel, _ = ann.ask("POST", "/api/kernels", "{}", X_XSRFToken=ann.cookies["_xsrf"], Content_Type="application/json")
    expect("a kernel starts", status, 201)
    path = f"/api/kernels/{json.loads(kernel)['id']}/channels"
    stream, head = ann.websocket(path)
    expect("its WebSocket opens", head.split("\r\n")[0].split(" ")[1], "101")
    _, head = bob.websocket(path)
    expect("another's does not", head.split("\r\n")[0].split(" ")[1], "403")
    expect("she signs out", ann.ask("POST", "/api/v1/auth/logout", Origin=f"https://{host}")[0], 200)
    began = time.monotonic()
    try:
        while stream.recv(4096):
            pass
    except ConnectionResetError:
        pass
    expect("the WebSocket is closed within 5 s", time.monotonic() - began < 5, True)


def radicale(running, applications, programs, work):
    print("Radicale")
    (app,) = free_ports(1)
    collections = work / "collections"
    pages = files("radicale.md", {"127.0.0.1:5232": f"127.0.0.1:{app}", "/var/lib/radicale/collections": str(collections)})
    config = work / "radicale.conf"
    config.write_text(pages["radicale.conf"], encoding="utf-8")
    running.start("radicale", [applications / "radicale", "--config", config], [app], {"PATH": "/usr/bin:/bin"})
    host = "calendar.example.com"
    port = sidegate(running, programs, work, "radicale", host, pages["sidegate.toml"])

    asked = '<propfind xmlns="DAV:"><prop><current-user-principal/></prop></propfind>'
    expect("nobody is refused", Person(port, host).ask("PROPFIND", "/", asked, X_Remote_User="ann")[0], 401)
    carol = Person(port, host)
    expect("whom no list names cannot sign in", carol.come_back("carol")[0], 403)
    expect("and is refused", carol.ask("PROPFIND", "/", asked, X_Remote_User="ann")[0], 401)
    ann, bob = Person(port, host).sign_in("ann"), Person(port, host).sign_in("bob")
    status, text, _ = ann.ask("PROPFIND", "/", asked, X_Remote_User="bob", Depth="0")
    expect("Radicale knows her by her own name", (status, re.findall(r"<href>(/\w+/)</href>", text)), (207, ["/ann/"]))
    event = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\nBEGIN:VEVENT\r\nUID:1\r\nDTSTAMP:20260101T000000Z\r\nDTSTART:20260101T000000Z\r\nSUMMARY:tea\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
    expect("she makes a calendar", ann.ask("MKCALENDAR", "/ann/own/")[0], 201)
    expect("an event goes in", ann.ask("PUT", "/ann/own/1.ics", event, Content_Type="text/calendar")[0], 201)
    status, text, _ = ann.ask("GET", "/ann/own/1.ics")
    expect("and comes out", (status, "SUMMARY:tea" in text), (200, True))
    expect("another does not see it", bob.ask("GET", "/ann/own/1.ics", X_Remote_User="ann")[0], 403)


def main():
    applications, programs = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory(prefix="recipes-") as folder, Programs(Path(folder)) as running:
        check(applications, programs, Path(folder))
        for run in (jupyter, radicale):
            run(running, applications, programs, Path(folder))
    print("recipes-test: all as the pages say")


main()
