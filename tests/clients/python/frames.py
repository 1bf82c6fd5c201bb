"""What the package does with frames: compression offered, fragments, pings, sizes, closes."""

import asyncio
import json
import time

import websockets

from bus import Client, command, envelope, run


async def main(bus, _telemetry, _http):
    ann = await Client.connect(bus, client_id="ann", join="lab:log")
    bob = await Client.connect(bus, client_id="bob", join="lab:log")
    await compression(ann)
    await fragments(ann, bob)
    await sizes(ann, bob)
    await pings(bus, ann)
    await closes(bus)


async def compression(ann):
    """The client offers permessage-deflate, the bus declines, and nothing is lost by it."""
    offered = ann.socket.request.headers["Sec-WebSocket-Extensions"]
    assert "permessage-deflate" in offered, offered
    assert "Sec-WebSocket-Extensions" not in ann.socket.response.headers
    assert (await ann.ask("ping"))["pong"] is True


async def fragments(ann, bob):
    """A message in pieces is one message, whatever comes between them."""
    said = "grüße 🦀" * 50
    for size in (1, 2, 7, 125, 126, 4_000):
        message = envelope("event", "ann", "lab:log", {"text": said})
        text = json.dumps(message, ensure_ascii=False)
        await ann.socket.send([text[at : at + size] for at in range(0, len(text), size)])
        event = await bob.event()
        assert (event["id"], event["payload"]["text"]) == (message["id"], said), size

    async def slowly(text):
        for at in range(0, len(text), 40):
            # A ping between two fragments is answered before the message is whole.
            await asyncio.wait_for(await ann.socket.ping(), 20)
            yield text[at : at + 40]

    question = command("ann", "ping", {})
    await ann.socket.send(slowly(json.dumps(question)))
    assert (await ann.reply(question["id"]))["result"]["pong"] is True


async def sizes(ann, bob):
    """Every form of a frame's length, up to the longest message the bus takes."""
    most = ann.welcome["limits"]["max_message_bytes"]
    for length in (126, 300, 65_535, 65_536, 65_537, 100_000, most - 1, most):
        message = envelope("event", "ann", "lab:log", {"filler": ""})
        message["payload"]["filler"] = "x" * max(0, length - len(json.dumps(message)))
        text = json.dumps(message)
        assert len(text) == length or length < 300, (len(text), length)
        await ann.socket.send(text)
        event = await bob.event()
        assert event["payload"] == message["payload"], length


async def pings(bus, ann):
    """Both sides are asked whether they are there, and say so."""
    pong = await ann.socket.ping(b"are you there?")
    assert await asyncio.wait_for(pong, 20) >= 0
    beat = ann.welcome["heartbeat_ms"] / 1000
    assert beat <= 1, "this program is to be run with a short heartbeat"
    # One only answers the bus's pings, one has a keepalive of its own.
    quiet = await Client.connect(bus, {"ping_interval": None})
    lively = await Client.connect(bus, {"ping_interval": beat / 3, "ping_timeout": 20})
    begin = time.monotonic()
    while time.monotonic() - begin < 3 * beat:
        await asyncio.sleep(beat / 4)
    for client in (quiet, lively):
        assert (await client.ask("ping"))["pong"] is True, "it was not closed for its silence"
    assert lively.socket.latency > 0


async def closes(bus):
    """What no message is closes the connection, with a code that says why."""
    client = await Client.connect(bus)
    most = client.welcome["limits"]["max_message_bytes"]
    for data, code in (("x" * (most + 1), 1009), (b"{}", 1003)):
        client = await Client.connect(bus)
        await client.socket.send(data)
        try:
            while True:
                await client.read()
        except websockets.ConnectionClosed as closed:
            assert closed.rcvd.code == code and closed.rcvd.reason, closed
    client = await Client.connect(bus)
    await client.socket.close(1000, "goodbye")
    assert client.socket.close_code == 1000


run(main)
