"""The telemetry socket tells what happens on the bus, and passes on what clients measure."""

import asyncio
import json
import time
import urllib.request

import websockets

from bus import PATIENCE_S, Client, envelope, run


async def main(bus, telemetry, http):
    async with websockets.connect(telemetry) as reader:
        member = await Client.connect(bus, client_id="member", join="integriguard:telemetry-stream")
        agent = await Client.connect(bus, client_id="agent", client_type="ai-agent")
        await agent.join("lab:new")
        told = await until(reader, lambda told: told["eventType"] == "joined" and of(told, "agent"))
        assert (told["payload"]["room"], told["payload"]["channel"]) == ("lab", "new"), told
        await agent.publish("lab:new", {})
        begin = time.monotonic()
        await agent.send(envelope("event", "agent", "lab:other", {}))
        told = await until(reader, lambda told: told["eventType"] == "message_refused")
        assert told["payload"]["error"] == "NOT_JOINED" and of(told, "agent"), told
        # The promise is half a second; a machine that is busy with other things may take longer.
        assert time.monotonic() - begin < 5

        measured = {"eventType": "cpu", "payload": {"load": 0.5, "host": "grün"}}
        await agent.send(envelope("telemetry", "agent", "lab:new", measured))
        assert await until(reader, lambda told: told["eventType"] == "cpu") == measured
        in_channel = await member.find(
            lambda message: message["type"] == "telemetry"
            and message["payload"]["eventType"] == "cpu"
        )
        assert in_channel["payload"] == measured and in_channel["from"] == "agent", in_channel
        bad = envelope("telemetry", "agent", "lab:new", {"eventType": 7})
        reply = await agent.reply(await agent.send(bad))
        assert (reply["code"], reply["error"]) == (400, "BAD_TELEMETRY"), reply

        await agent.close()
        told = await until(
            reader, lambda told: told["eventType"] == "client_disconnected" and of(told, "agent")
        )
        assert told["payload"]["client_type"] == "ai-agent", told

    # The other port says the same in HTTP.
    with urllib.request.urlopen(http + "/status", timeout=PATIENCE_S) as answer:
        assert json.load(answer)["clients"] >= 1
    with urllib.request.urlopen(http + "/metrics", timeout=PATIENCE_S) as answer:
        assert b"arqonbus_messages_received_total" in answer.read()


async def until(reader, is_meant):
    """The payload of the first telemetry event that is meant."""
    while True:
        message = json.loads(await asyncio.wait_for(reader.recv(), PATIENCE_S))
        assert message["type"] == "telemetry", message
        if is_meant(message["payload"]):
            return message["payload"]


def of(told, client_id):
    """Whether it tells of that client."""
    return told["payload"].get("client_id") == client_id


run(main)
