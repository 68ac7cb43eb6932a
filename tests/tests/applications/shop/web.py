"""Counts visits in the cache, hands them to the worker, shows what the worker has kept."""

import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from shop import cache, database


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health":
            self.answer("ok" if cache().ping() else "no")
        elif self.path == "/visit":
            count = cache().incr("visits")
            cache().rpush("jobs", count)
            self.answer(f"{socket.gethostname()} visit {count}")
        elif self.path == "/rows":
            rows = database()
            rows.execute("SELECT count(*) FROM visit")
            self.answer(f"rows {rows.fetchone()[0]}")
        elif self.path == "/cron":
            self.answer(f"cron {(cache().get('cron') or b'').decode()}")
        else:
            self.send_error(404)

    def answer(self, text):
        body = (text + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("", 8000), Handler).serve_forever()
