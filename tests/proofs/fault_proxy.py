"""A proxy before an S3 server that does to chosen requests what a network or a cloud may do."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

HEAD_END = b"\r\n\r\n"
SLOW_S = 0.4
NUM_SLOW_PARTS = 4
REASONS = {500: "Internal Server Error", 503: "Slow Down"}
FAULTS = ("reset", "500", "503", "slow", "cut", "twice")


@dataclass
class Plan:
    """What to do to which requests.

    Attributes:
        fault: One of FAULTS: "reset" ends the connection before the server hears of the request;
            "cut" ends it in the middle of the body, of the request or of the answer; "twice" sends
            the answer twice.
        methods: Requests that count.
        first: Number of the first one that is struck, from 0.
        num_times: How many are struck in a row.
        num_seen: Requests that counted.
        num_fired: Requests that were struck.
    """

    fault: str
    methods: frozenset[str]
    first: int
    num_times: int
    num_seen: int = 0
    num_fired: int = 0

    def strikes(self, method: str) -> bool:
        """Whether the request that came now is to be struck; counts it."""
        if method not in self.methods:
            return False
        number, self.num_seen = self.num_seen, self.num_seen + 1
        if not self.first <= number < self.first + self.num_times:
            return False
        self.num_fired += 1
        return True


@dataclass
class FaultProxy:
    """Listens on `port` and passes on to `upstream_port`, both on this machine."""

    upstream_port: int
    port: int = 0
    plan: Plan | None = None
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    async def serve(self, ready: threading.Event) -> None:
        server = await asyncio.start_server(self.talk, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await server.serve_forever()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client: request after request."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ConnectionError):
            while await self.answer(reader, writer):
                await writer.drain()
        writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; False when the connection is over."""
        head = await reader.readuntil(HEAD_END)
        method = head.split(b" ", 1)[0].decode()
        fault = self.plan.fault if self.plan and self.plan.strikes(method) else None
        if fault == "reset":
            reset(writer)
            return False
        if b"100-continue" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue" + HEAD_END)
        body = await reader.readexactly(length_of(head))
        if fault in ("500", "503"):
            writer.write(refusal(int(fault), method))
            return True
        if fault == "cut" and method == "PUT":
            await self.half_a_request(head, body)
            reset(writer)
            return False
        content = await self.upstream(head, body)
        return await send(writer, content, fault)

    async def upstream(self, head: bytes, body: bytes) -> bytes:
        """The server's whole answer, which leaves the connection to the client open."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        writer.write(one_request(head) + body)
        await writer.drain()
        content = await reader.read(-1)
        writer.close()
        answer_head, _, answer_body = content.partition(HEAD_END)
        lines = [line for line in answer_head.split(b"\r\n") if not is_of_connection(line)]
        return b"\r\n".join(lines) + HEAD_END + answer_body

    async def half_a_request(self, head: bytes, body: bytes) -> None:
        """Let the server hear half of a body, then hang up."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        writer.write(one_request(head) + body[: len(body) // 2])
        await writer.drain()
        await asyncio.sleep(0.02)
        reset(writer)


async def send(writer: asyncio.StreamWriter, content: bytes, fault: str | None) -> bool:
    """Give the client its answer, or what the fault leaves of it."""
    if fault == "cut":
        head, _, body = content.partition(HEAD_END)
        writer.write(head + HEAD_END + body[: len(body) // 2])
        await writer.drain()
        await asyncio.sleep(0.02)  # so that the half arrives before the end
        reset(writer)
        return False
    if fault == "slow":
        part_bytes = -(-len(content) // NUM_SLOW_PARTS)
        for begin in range(0, len(content), part_bytes):
            await asyncio.sleep(SLOW_S / NUM_SLOW_PARTS)
            writer.write(content[begin : begin + part_bytes])
            await writer.drain()
        return True
    writer.write(content * 2 if fault == "twice" else content)
    return True


def one_request(head: bytes) -> bytes:
    """The head of a request after which the server hangs up, so that its answer has an end."""
    lines = [line for line in head.removesuffix(HEAD_END).split(b"\r\n") if not dropped(line)]
    return b"\r\n".join([*lines, b"Connection: close"]) + HEAD_END


def dropped(line: bytes) -> bool:
    return is_of_connection(line) or line.lower().startswith(b"expect:")


def is_of_connection(line: bytes) -> bool:
    return line.lower().startswith((b"connection:", b"keep-alive:"))


def length_of(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    return 0


def refusal(status: int, method: str) -> bytes:
    code = {500: "InternalError", 503: "SlowDown"}[status]
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: application/xml\r\n"
    return (
        f"{head}Content-Length: {len(body)}".encode()
        + HEAD_END
        + (b"" if method == "HEAD" else body)
    )


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection without a goodbye (RST)."""
    channel = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.contextmanager
def fault_proxy(upstream_port: int) -> Iterator[FaultProxy]:
    """A proxy that works in a thread of its own."""
    proxy, ready = FaultProxy(upstream_port), threading.Event()
    loop = proxy._loop

    def work() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(proxy.serve(ready))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield proxy
    finally:
        for task in asyncio.all_tasks(loop):
            loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
