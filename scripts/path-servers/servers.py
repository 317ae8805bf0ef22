"""The servers of the suite: how each is started, and where it listens. All on loopback, on free ports, ended together."""
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from programs import free_ports

HERE = Path(__file__).resolve().parent


def write_files(folder):
    """What file servers serve: each file says below which place it stands."""
    for name in ("admin", "public"):
        for file in ("index.html", "x", "x.txt", "sub/x"):
            path = folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"served: {name}\n")
    (folder / "index.html").write_text("served: nothing\n")


# What stands in the table's head, in its order: the column, and what it is.
COLUMNS = {
    "nginx": "nginx, `location /admin/`",
    "nginx-unmerged": "nginx, `location /admin/` with `merge_slashes off`",
    "nginx-files": "nginx, files",
    "nginx-proxy": "nginx, `proxy_pass` with a path, before Go's ServeMux",
    "apache-files": "Apache httpd, files",
    "apache-slashes": "Apache httpd, files, `AllowEncodedSlashes On`",
    "caddy": "Caddy, `handle /admin/*`",
    "caddy-files": "Caddy, files",
    "tomcat": "Tomcat, servlets",
    "tomcat-lenient": "Tomcat, servlets, encoded slashes and backslashes allowed",
    "jetty": "Jetty, servlets",
    "jetty-lenient": "Jetty, servlets, `UriCompliance.UNSAFE`",
    "express": "Node with Express, `app.use('/admin', …)`",
    "express-files": "Node with Express, files",
    "node-url": "Node, `new URL(…).pathname`, decoded",
    "node-parse": "Node, `url.parse(…).pathname`, decoded and normalised",
    "gunicorn": "gunicorn, WSGI's `PATH_INFO`",
    "flask": "gunicorn with Flask",
    "starlette": "uvicorn with Starlette, `Mount`",
    "starlette-files": "uvicorn with Starlette, files",
    "go": "Go net/http, ServeMux",
    "go-files": "Go net/http, files",
    "go-clean": "Go net/http, `path.Clean(r.URL.Path)`",
    "php": "PHP's built-in server, `parse_url(REQUEST_URI)`, decoded",
    "php-files": "PHP's built-in server, files",
    "axum": "axum, Router",
    "axum-files": "axum with tower-http, files",
}


class Servers:
    """All servers, from `with` until its end. `built` is the folder with what was installed for them."""

    def __init__(self, built, work):
        self.built, self.work, self.running = built, work, []
        self.ports = dict(zip(COLUMNS, free_ports(len(COLUMNS))))

    def __enter__(self):
        try:
            self.start()
            for name, port in self.ports.items():
                self.wait_for(name, port)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def run(self, name, command, **more):
        log = open(self.work / f"{name}.log", "wb")
        # In a group of its own, so that its children end with it.
        self.running.append(subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log,
                                             stderr=subprocess.STDOUT, start_new_session=True, **more))

    def wait_for(self, name, port):
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    logs = "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-800:]}" for log in self.work.glob("*.log"))
                    raise SystemExit(f"paths: {name} did not start on port {port}\n{logs}")
                time.sleep(0.05)

    def start(self):
        files, ports, built, work = self.work / "files", self.ports, self.built, self.work
        write_files(files)
        environment = {**os.environ, "FOLDER": str(files), "PYTHONPATH": str(HERE / "python"), "PYTHONDONTWRITEBYTECODE": "1"}

        (work / "nginx.conf").write_text(nginx(work, files, ports))
        self.run("nginx", [tool("nginx"), "-c", work / "nginx.conf", "-e", work / "nginx-errors.txt", "-g", "daemon off;"])
        (work / "apache.conf").write_text(apache(work, files, ports))
        self.run("apache", [tool("apache2", "httpd"), "-X", "-f", work / "apache.conf"])
        (work / "Caddyfile").write_text(caddy(files, ports))
        self.run("caddy", [tool("caddy"), "run", "--adapter", "caddyfile", "--config", work / "Caddyfile"],
                 env={**environment, "XDG_DATA_HOME": str(work), "XDG_CONFIG_HOME": str(work)})
        self.run("java", [tool("java"), "-cp", f"{built / 'java'}/*", HERE / "java" / "Servers.java",
                          *(ports[name] for name in ("tomcat", "tomcat-lenient", "jetty", "jetty-lenient"))])
        self.run("node", [tool("node"), HERE / "node" / "servers.js",
                          *(ports[name] for name in ("express", "express-files", "node-url", "node-parse")), files],
                 env={**environment, "NODE_PATH": str(built / "node" / "node_modules")})
        python = built / "venv" / "bin"
        for name, app in (("gunicorn", "wsgi:app"), ("flask", "wsgi:flask_app")):
            self.run(name, [python / "gunicorn", "--bind", f"127.0.0.1:{ports[name]}", app], env=environment)
        for name, app in (("starlette", "asgi:app"), ("starlette-files", "asgi:files")):
            self.run(name, [python / "uvicorn", "--host", "127.0.0.1", "--port", ports[name], app], env=environment)
        self.run("go", [built / "go-server", *(ports[name] for name in ("go", "go-files", "go-clean")), files])
        self.run("php", [tool("php"), "-S", f"127.0.0.1:{ports['php']}", HERE / "php" / "router.php"])
        self.run("php-files", [tool("php"), "-S", f"127.0.0.1:{ports['php-files']}", "-t", files])
        self.run("axum", [built / "axum" / "debug" / "path-server", ports["axum"], ports["axum-files"], files])


def tool(*names):
    for name in names:
        found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
        if found:
            return found
    raise SystemExit(f"paths: {names[0]} is missing")


def nginx(work, files, ports):
    places = "".join(f'location /{name}/ {{ return 200 "served: {name}\\n"; }} ' for name in ("admin", "public"))
    # As root, nginx would read the files as nobody, who may not enter the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    listen = lambda name: f"listen 127.0.0.1:{ports[name]};"
    passes = "".join(
        f"location /{name}/ {{ proxy_pass http://127.0.0.1:{ports['go']}/{name}/; }} " for name in ("admin", "public"))
    return f"""
pid {work}/nginx.pid;
worker_processes 1;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {work}/nginx-body; proxy_temp_path {work}/nginx-proxy; fastcgi_temp_path {work}/nginx-fastcgi;
    uwsgi_temp_path {work}/nginx-uwsgi; scgi_temp_path {work}/nginx-scgi;
    server {{ {listen("nginx")} {places} location / {{ return 404; }} }}
    server {{ {listen("nginx-unmerged")} merge_slashes off; {places} location / {{ return 404; }} }}
    server {{ {listen("nginx-files")} root {files}; }}
    server {{ {listen("nginx-proxy")} {passes} location / {{ return 404; }} }}
}}
"""


def apache(work, files, ports):
    modules = next((folder for folder in ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/etc/httpd/modules")
                    if Path(folder).is_dir()), "modules")
    load = "\n".join(f"LoadModule {name}_module {modules}/mod_{name}.so" for name in
                     ("mpm_prefork", "authz_core", "dir", "mime") if (Path(modules) / f"mod_{name}.so").exists())
    vhost = lambda name, more="": f"""
Listen 127.0.0.1:{ports[name]}
<VirtualHost 127.0.0.1:{ports[name]}>
    DocumentRoot {files}
    {more}
</VirtualHost>"""
    return f"""
ServerRoot {work}
ServerName localhost
PidFile {work}/apache.pid
DefaultRuntimeDir {work}
Mutex file:{work}
ErrorLog {work}/apache-errors.txt
{load}
TypesConfig /dev/null
DirectoryIndex index.html
<Directory {files}>
    Require all granted
</Directory>
{vhost("apache-files")}
{vhost("apache-slashes", "AllowEncodedSlashes On")}
"""


def caddy(files, ports):
    places = "\n".join(f'    handle /{name}/* {{\n        respond "served: {name}"\n    }}' for name in ("admin", "public"))
    return f"""{{
    admin off
    auto_https off
}}
http://127.0.0.1:{ports["caddy"]} {{
    bind 127.0.0.1
{places}
    handle {{
        respond 404
    }}
}}
http://127.0.0.1:{ports["caddy-files"]} {{
    bind 127.0.0.1
    root * {files}
    file_server
}}
"""
