"""An OpenAI-compatible endpoint for tests, a process of its own: `python -m tests.openai_server --port 0`.

It prints its port, streams what a scenario says to `POST /v1/chat/completions`, and ends when its standard input does.
A scenario is a list of rows, from `--scenario FILE` or `POST /control`; a request is answered by the first row that
fits and is not used up. `GET /control` tells the requests so far (headers, body), how many streams are open, and how
many the client has left. All keys of a row may be left out:

    when           {"last": …, "system": …, "tools": …, "model": …}, expressions that are looked for in the last message
                   ("role: content"), the system messages, the names of the tools (with blanks between), the model
    times          how many requests the row answers; any number by default
    text           the chunks of text, a list, or a string for one
    tool_calls     [{"id", "name", "arguments": text or object, "pieces": 2}], their pieces interleaved by index
    finish_reason  "tool_calls" or "stop" by default; null sends none
    usage          as OpenAI has it; null sends none
    first_delay    seconds before the first chunk; the headers have been sent
    delay          seconds before each further one
    raw            list of texts, sent as they are instead of chunks
    status         an HTTP error instead of a stream, with `headers` and `error` (an object, or text for a body)
    fault, after   what happens after that many chunks (0): "hang", "cut" (the connection is closed), "end" (the
                   stream just ends), "garbage" (no JSON), "silence" (nothing at all, not even headers)
"""

import argparse
import json
import re
import select
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import zip_longest
from pathlib import Path
from typing import Any

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
FOREVER = 3600.0

Row = Mapping[str, Any]


class Scenario:
    """The rows, how often each was used, and what was seen."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._lock = threading.Lock()
        self.play(rows)

    def play(self, rows: Sequence[Row]) -> None:
        """Play these rows from now on, and forget what was seen."""
        with self._lock:
            self._rows = list(rows)
            self._used = [0] * len(rows)
            self._requests: list[dict[str, Any]] = []
            self._open = self._left = 0

    def row_for(self, headers: Mapping[str, str], body: dict[str, Any]) -> Row:
        """Choose the row for a request, and note the request."""
        with self._lock:
            self._requests.append({"headers": dict(headers), "body": body})
            for index, row in enumerate(self._rows):
                if self._used[index] < row.get("times", self._used[index] + 1) and _fits(row.get("when", {}), body):
                    self._used[index] += 1
                    return row
        return {"status": 400, "error": {"code": "no_row_fits", "message": "the scenario has no row for this request"}}

    def opened(self) -> None:
        """Count a stream."""
        with self._lock:
            self._open += 1

    def closed(self, left: bool) -> None:
        """Count the end of a stream, and whether the client left before it."""
        with self._lock:
            self._open -= 1
            self._left += left

    def seen(self) -> dict[str, Any]:
        """Tell what was seen since the scenario began."""
        with self._lock:
            return {"requests": self._requests, "open": self._open, "left": self._left}


def _fits(when: Mapping[str, str], body: Mapping[str, Any]) -> bool:
    messages = body["messages"]
    facets = {
        "last": f"{messages[-1]['role']}: {messages[-1].get('content') or ''}",
        "system": "\n".join(message["content"] or "" for message in messages if message["role"] == "system"),
        "tools": " ".join(tool["function"]["name"] for tool in body.get("tools", ())),
        "model": body["model"],
    }
    return all(re.search(pattern, facets[name], re.DOTALL) for name, pattern in when.items())


def chunks_of(row: Row, model: str) -> Iterator[str]:
    """The stream of a row, as texts to send, up to but without its end."""
    if "raw" in row:
        yield from row["raw"]
        return
    yield _event(model, {"role": "assistant", "content": ""})
    text = row.get("text", ())
    for piece in [text] if isinstance(text, str) else text:
        yield _event(model, {"content": piece})
    calls = row.get("tool_calls", ())
    for index, call in enumerate(calls):
        function = {"name": call["name"], "arguments": ""}
        named = {"index": index, "id": call["id"], "type": "function", "function": function}
        yield _event(model, {"tool_calls": [named]})
    for pieces in zip_longest(*(_pieces(call) for call in calls)):
        for index, piece in enumerate(pieces):
            if piece is not None:
                yield _event(model, {"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    reason = row.get("finish_reason", "tool_calls" if calls else "stop")
    if reason is not None:
        yield _event(model, {}, reason)
    usage = row.get("usage", USAGE)
    if usage is not None:
        yield _event(model, None, None, usage)


def _pieces(call: Mapping[str, Any]) -> list[str]:
    arguments = call["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    size = -(-len(text) // call.get("pieces", 2)) or 1
    return [text[start : start + size] for start in range(0, len(text), size)]


def _event(
    model: str, delta: dict[str, Any] | None, reason: str | None = None, usage: dict[str, Any] | None = None
) -> str:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    chunk = {"id": "chatcmpl-test", "object": "chat.completion.chunk", "created": 0, "model": model}
    return f"data: {json.dumps({**chunk, 'choices': choices, 'usage': usage})}\n\n"


class ClientLeftError(Exception):
    """The client has closed the connection before the end of its stream."""


class Handler(BaseHTTPRequestHandler):
    """`/v1/chat/completions` and `/control`."""

    protocol_version = "HTTP/1.1"
    scenario: Scenario

    def do_GET(self) -> None:
        """Tell what was seen."""
        self._answer(200, json.dumps(self.scenario.seen()))

    def do_POST(self) -> None:
        """Answer as a model, or take a scenario."""
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        if self.path == "/control":
            self.scenario.play(body)
            self.do_GET()
        elif self.path != "/v1/chat/completions":
            self._answer(404, json.dumps({"error": {"code": "no_such_page"}}))
        else:
            self._play(self.scenario.row_for({name.lower(): text for name, text in self.headers.items()}, body), body)

    def _play(self, row: Row, body: Mapping[str, Any]) -> None:
        if "status" in row:
            error = row.get("error", {"message": "as told"})
            text = error if isinstance(error, str) else json.dumps({"error": error})
            self._answer(row["status"], text, row.get("headers", {}))
            return
        self.scenario.opened()
        left = False
        try:
            self._stream(row, body["model"])
        except (ClientLeftError, ConnectionError):
            left = self.close_connection = True
        finally:
            self.scenario.closed(left)

    def _stream(self, row: Row, model: str) -> None:
        fault, after = row.get("fault"), row.get("after", 0)
        if fault == "silence":
            self._pause(FOREVER)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._pause(row.get("first_delay", 0.0))
        for number, chunk in enumerate(chunks_of(row, model)):
            if fault and number == after:
                break
            self._pause(row.get("delay", 0.0) if number else 0.0)
            self._send(chunk)
        if fault == "hang":
            self._pause(FOREVER)
        elif fault == "cut":
            # Not by a reset: that would take back what the client has not read yet.
            self.close_connection = True
            return
        elif fault == "garbage":
            self._send('data: {"choices": [{"delta": {"content": \n\n<html>502 Bad Gateway</html>\n\n')
        elif fault is None and "raw" not in row:
            self._send("data: [DONE]\n\n")
        self._send("")

    def _send(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _pause(self, seconds: float) -> None:
        """Wait; a client has nothing to say now, so whatever can be read is the end of its connection."""
        if seconds and select.select([self.connection], [], [], seconds)[0]:
            raise ClientLeftError

    def _answer(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


class Server(ThreadingHTTPServer):
    """As many streams at once as a test cares to open."""

    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about connections that broke; whatever else is wrong belongs on standard error."""
        if not isinstance(sys.exception(), OSError | ValueError):
            super().handle_error(request, client_address)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description="an OpenAI-compatible endpoint for tests")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--scenario", type=Path, help="JSON: the rows to begin with")
    options = parser.parse_args()
    rows = json.loads(options.scenario.read_text()) if options.scenario else []
    Handler.scenario = Scenario(rows)
    server = Server(("127.0.0.1", options.port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
