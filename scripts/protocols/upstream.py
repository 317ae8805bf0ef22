"""What stands behind Sidegate while it is tested: a WebSocket server that sends each message back, and answers of some bytes to all else.

upstream.py WEBSOCKET_PORT HTTP_PORT
"""
import asyncio
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

BODY = b"hello from upstream\n" * 20


class Plain(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(BODY)

    do_GET = do_HEAD = do_POST = answer

    def log_message(self, *_):
        pass


async def echo(connection):
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass  # Half of the cases break the protocol on purpose.


async def main():
    websocket, http = (int(port) for port in sys.argv[1:])
    plain = ThreadingHTTPServer(("127.0.0.1", http), Plain)
    threading.Thread(target=plain.serve_forever, daemon=True).start()
    async with serve(echo, "127.0.0.1", websocket, max_size=None, ping_interval=None) as server:
        await server.serve_forever()


asyncio.run(main())
