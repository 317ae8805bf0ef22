"""A guarded and an open place by WSGI's PATH_INFO (`app`), and by Flask's routes (`flask_app`)."""
from flask import Flask


def app(environ, start_response):
    path = environ["PATH_INFO"]
    for name in ("admin", "public"):
        if path == f"/{name}" or path.startswith(f"/{name}/"):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [f"served: {name}\n".encode()]
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"not found\n"]


flask_app = Flask(__name__, static_folder=None)
for _name in ("admin", "public"):
    def _serve(name=_name, rest=None):
        return f"served: {name}\n"

    flask_app.add_url_rule(f"/{_name}/", f"{_name}-top", _serve)
    flask_app.add_url_rule(f"/{_name}/<path:rest>", _name, _serve)
