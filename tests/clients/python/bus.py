"""A client of the bus on the package `websockets`, for the programs beside this file.

Each of them takes the URLs of the WebSocket, the telemetry WebSocket and the HTTP port of a bus
that nobody else has used, shows one thing by assertions, and ends with 0, or with 1 and the reason
on standard error.
"""

import asyncio
import itertools
import json
import sys
import traceback
from collections import deque
from urllib.parse import urlencode

import websockets

# How long one wait may take; the whole program may take twice that.
PATIENCE_S = 25

_ids = itertools.count(1)


class Refused(Exception):
    """The bus said no."""

    def __init__(self, reply):
        super().__init__(f"{reply['code']} {reply['error']}: {reply['message']}")
        self.code = reply["code"]
        self.error = reply["error"]
        self.field = reply.get("field")


def envelope(kind, sender, address, payload, metadata=None, message_id=None):
    """A whole envelope; `address` is `room:channel`."""
    room, channel = address.split(":")
    message = {
        "version": "1.0",
        "id": message_id or f"arq_{sender}-{next(_ids)}",
        "type": kind,
        "room": room,
        "channel": channel,
        "from": sender,
        "timestamp": "2025-11-30T12:00:00+00:00",
        "payload": payload,
    }
    if metadata is not None:
        message["metadata"] = metadata
    return message


def command(sender, name, parameters):
    """The envelope of a command, which is addressed by its parameters alone."""
    return envelope("command", sender, "*:*", {"command": name, "parameters": parameters})


def with_query(url, query):
    """The URL with a query string."""
    return f"{url}/?{urlencode(query)}"


def result_of(reply):
    """The result in the payload of an answer, or the refusal as an exception."""
    if reply["status"] != "success":
        raise Refused(reply)
    return reply["result"]


class Client:
    """A connected client. What it is not asked for at once is kept, in order."""

    def __init__(self, socket, welcome):
        self.socket = socket
        self.welcome = welcome
        self.id = welcome["client_id"]
        self.kept = deque()

    @classmethod
    async def connect(cls, url, socket_options=None, **query):
        """Connects and awaits the welcome."""
        socket = await websockets.connect(
            with_query(url, query), max_size=None, **(socket_options or {})
        )
        first = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE_S))
        assert first["type"] == "system" and first["from"] == "arqonbus_server", first
        assert first["payload"]["event"] == "welcome", first
        return cls(socket, first["payload"])

    async def send(self, message):
        """Sends an envelope and gives its id."""
        await self.socket.send(json.dumps(message))
        return message["id"]

    async def read(self):
        """The next message from the socket."""
        text = await asyncio.wait_for(self.socket.recv(), PATIENCE_S)
        assert isinstance(text, str), "the bus sends text"
        return json.loads(text)

    async def find(self, is_meant):
        """The first message that is meant."""
        for message in self.kept:
            if is_meant(message):
                self.kept.remove(message)
                return message
        while True:
            message = await self.read()
            if is_meant(message):
                return message
            self.kept.append(message)

    async def event(self):
        """The next event."""
        return await self.find(lambda message: message["type"] == "event")

    async def private(self):
        """The next private message."""
        return await self.find(lambda message: message["type"] == "private")

    async def notice(self, name):
        """The payload of the next notice of that name."""
        message = await self.find(
            lambda message: message["type"] == "system" and message["payload"]["event"] == name
        )
        return message["payload"]

    async def reply(self, message_id):
        """The payload of the answer to the message of that id."""
        message = await self.find(
            lambda message: message["type"] == "command_response"
            and message["payload"]["request_id"] == message_id
        )
        return message["payload"]

    async def ask(self, name, **parameters):
        """Gives a command; its result, or `Refused`."""
        reply = await self.reply(await self.send(command(self.id, name, parameters)))
        assert reply["command"] == name, reply
        return result_of(reply)

    async def join(self, address, **parameters):
        """Joins `room:channel`."""
        return await self.ask("join_channel", channel=address, **parameters)

    async def publish(self, address, payload, message_id=None, **metadata):
        """Publishes an event, and gives the result in its answer."""
        metadata["ack"] = True
        message = envelope("event", self.id, address, payload, metadata, message_id)
        return result_of(await self.reply(await self.send(message)))

    async def is_quiet(self):
        """Whether nothing came that was not asked for; the bus has answered all before this."""
        await self.ask("ping")
        return not self.kept

    async def close(self):
        """Closes the connection."""
        await self.socket.close()


async def refused(code, error, work):
    """Asserts that the bus refuses it so."""
    try:
        result = await work
    except Refused as no:
        assert (no.code, no.error) == (code, error), no
        return no
    raise AssertionError(f"{error} was expected instead of {result}")


def run(main):
    """Runs `main(bus, telemetry, http)` and ends the program."""
    try:
        outcome = main(*sys.argv[1:4])
        if asyncio.iscoroutine(outcome):
            asyncio.run(asyncio.wait_for(outcome, 2 * PATIENCE_S))
    except Exception:
        traceback.print_exc()
        sys.exit(1)
