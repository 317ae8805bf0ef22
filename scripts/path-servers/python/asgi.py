"""A guarded and an open place by Starlette's mounts (`app`), and by its files (`files`, from the folder in FOLDER)."""
import os

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

app = Starlette(routes=[Mount(f"/{name}", PlainTextResponse(f"served: {name}\n")) for name in ("admin", "public")])
files = Starlette(routes=[Mount("/", StaticFiles(directory=os.environ["FOLDER"], html=True))])
