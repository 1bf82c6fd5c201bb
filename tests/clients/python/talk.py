"""Clients talk: channels, acknowledgements, echo, presence, private messages, history."""

import asyncio
import json

from bus import Client, envelope, refused, run


async def main(bus, _telemetry, _http):
    ann, bob, eve = [
        await Client.connect(bus, client_id=name, screen_name=f"{name} ☺") for name in ("ann", "bob", "eve")
    ]
    assert ann.welcome["protocol"] == "1.0" and ann.welcome["client_id"] == "ann"
    nameless = await Client.connect(bus, join="science:general,lab:join")
    assert nameless.id.startswith("arq_client_")
    assert {view["room"] for view in nameless.welcome["joined"]} == {"science", "lab"}
    await nameless.close()

    await events(ann, bob, eve)
    await presence(ann, bob)
    await private(ann, bob, eve)
    await history(ann)
    for client in (ann, bob, eve):
        assert await client.is_quiet(), client.kept
        await client.close()


async def events(ann, bob, eve):
    """One order for all, an echo for who wants one, nothing for who is not joined."""
    await refused(403, "NOT_JOINED", ann.publish("lab:talk", {}))
    joined = await ann.join("lab:talk", echo=True)
    assert joined["created"] and joined["sequence"] == 0 and joined["participants"] == 1, joined
    await bob.join("lab:talk")

    # Both talk at once and without waiting.
    async def speak(client):
        for number in range(100):
            payload = {"by": client.id, "n": number, "text": "grüße \u2028 🦀 \"\\"}
            await client.send(envelope("event", client.id, "lab:talk", payload))

    await asyncio.gather(speak(ann), speak(bob))
    heard_by_ann = [await ann.event() for _ in range(200)]
    sequences = [event["metadata"]["sequence"] for event in heard_by_ann]
    assert sequences == list(range(1, 201)), "an echo comes at its place"
    of_ann = [event for event in heard_by_ann if event["from"] == "ann"]
    assert [event["payload"]["n"] for event in of_ann] == list(range(100))
    heard_by_bob = [await bob.event() for _ in range(100)]
    assert heard_by_bob == of_ann, "all get the same, but for their own"
    assert heard_by_bob[0]["payload"]["text"] == "grüße \u2028 🦀 \"\\"
    stamps = [event["timestamp"] for event in heard_by_ann]
    assert stamps == sorted(stamps) and stamps[0].endswith("Z")

    # A client may always retry: the id is what counts.
    first = await bob.publish("lab:talk", {"n": 1}, message_id="arq_retried")
    assert (first["sequence"], first["duplicate"]) == (201, False), first
    again = await bob.publish("lab:talk", {"n": 2}, message_id="arq_retried")
    assert (again["sequence"], again["duplicate"]) == (201, True), again
    assert (await ann.event())["id"] == "arq_retried"
    traced = await bob.publish("lab:talk", {}, trace=True)
    assert {hop["at"] for hop in traced["trace"]} >= {"parsed", "routed", "delivered"}, traced
    assert traced["delivered"] == 1, traced
    await ann.event()
    assert await ann.is_quiet() and await bob.is_quiet() and await eve.is_quiet()

    # The payload's bytes are the sender's, whatever JSON allows.
    payload = '{ "z" : 1.0,"a":[ 1e2 ,\t"\\u00e9"] }'
    message = json.dumps(envelope("event", "bob", "lab:talk", {})).replace("{}", payload)
    await bob.socket.send(message)
    assert payload in await ann.socket.recv()


async def presence(ann, bob):
    """Who asks is told who comes and who goes."""
    await bob.ask("leave_channel", channel="lab:talk")
    await ann.join("lab:door", presence=True)
    await bob.join("lab:door")
    joined = await ann.notice("joined")
    assert joined["client_id"] == "bob", joined
    await bob.ask("leave_channel", channel="lab:door")
    left = await ann.notice("left")
    assert left["client_id"] == "bob", left


async def private(ann, bob, eve):
    """A private message reaches its targets alone, or is refused by name."""
    await bob.join("lab:talk")
    for target in ("bob", ["bob"]):
        message = envelope("private", "ann", "lab:talk", {"target": target, "text": "psst"})
        await ann.send(message)
        got = await bob.private()
        assert got["payload"] == message["payload"] and got["from"] == "ann", got
    missing = envelope("private", "ann", "lab:talk", {"target": ["bob", "nobody"]})
    reply = await ann.reply(await ann.send(missing))
    assert (reply["code"], reply["error"]) == (404, "TARGET_NOT_FOUND"), reply
    assert "nobody" in reply["message"], reply
    assert (await bob.private())["id"] == missing["id"], "who is there gets it nevertheless"
    outsider = envelope("private", "eve", "elsewhere:talk", {"target": "ann"})
    reply = await eve.reply(await eve.send(outsider))
    assert reply["code"] in (403, 404), reply


async def history(ann):
    """What was said before, by count and by place."""
    page = await ann.ask("history", channel="lab:talk", limit=3)
    assert [m["metadata"]["sequence"] for m in page["messages"]] == [201, 202, 203], page
    assert all(m["metadata"]["replayed"] for m in page["messages"])
    page = await ann.ask("history", channel="lab:talk", after=10, before=14, order="asc")
    assert [m["metadata"]["sequence"] for m in page["messages"]] == [11, 12, 13], page
    page = await ann.ask("history", channel="lab:talk", limit=2, order="desc")
    assert [m["metadata"]["sequence"] for m in page["messages"]] == [203, 202], page
    assert page["more"]


run(main)
