"""A reader that loses its connection again and again misses nothing, while others publish."""

import asyncio

from bus import Client, Refused, refused, run

LOSSES = 8


class Reader:
    """Follows one channel over many connections."""

    def __init__(self):
        self.place = None
        self.numbers = []
        self.replayed = 0

    async def connect(self, bus):
        """Comes back, and asks for everything since what it saw last."""
        client = await Client.connect(bus)
        if self.place is None:
            joined = await client.join("lab:log")
            self.place = {"epoch": joined["epoch"], "sequence": joined["sequence"]}
        else:
            joined = await client.join("lab:log", recover=self.place)
            assert joined["recovered"] is True, joined
            assert joined["missed"] >= 0 and joined["epoch"] == self.place["epoch"]
        return client

    async def read(self, client, count):
        """Reads so many events."""
        for _ in range(count):
            event = await client.event()
            sequence = event["metadata"]["sequence"]
            assert sequence == self.place["sequence"] + 1, (sequence, self.place)
            self.place["sequence"] = sequence
            self.numbers.append(event["payload"]["n"])
            self.replayed += bool(event["metadata"].get("replayed"))


async def main(bus, _telemetry, _http):
    reader = Reader()
    client = await reader.connect(bus)
    speaker = await Client.connect(bus, client_id="speaker", join="lab:log")
    is_over = asyncio.Event()
    published = 0

    async def speak():
        nonlocal published
        while not is_over.is_set():
            await speaker.publish("lab:log", {"n": published})
            published += 1
            await asyncio.sleep(0.001)

    speaking = asyncio.create_task(speak())
    for loss in range(LOSSES):
        await reader.read(client, 10 + loss)
        # No goodbye: the connection is just gone.
        client.socket.transport.abort()
        # One more may have been read already than the speaker knows of.
        missed = published + 21
        while published < missed:
            await asyncio.sleep(0.002)
        client = await reader.connect(bus)
    is_over.set()
    await speaking
    await reader.read(client, published - len(reader.numbers))
    assert reader.numbers == list(range(published)), "nothing missing, doubled or reordered"
    assert reader.replayed >= LOSSES * 20, reader.replayed
    assert await client.is_quiet(), client.kept
    await no_silent_part(bus, speaker, reader.place)


async def no_silent_part(bus, speaker, place):
    """What can't be recovered as a whole is not recovered at all."""
    wrong_epoch = {"epoch": "0123456789abcdef", "sequence": place["sequence"]}
    client = await Client.connect(bus, client_id="late")
    joined = await client.join("lab:log", recover=wrong_epoch)
    assert joined["recovered"] is False and joined["missed"] == 0 and joined["reason"], joined
    assert await client.is_quiet(), client.kept
    again = await refused(409, "ALREADY_JOINED", client.join("lab:log", recover=place))
    assert isinstance(again, Refused)
    await client.ask("leave_channel", channel="lab:log")

    # The room keeps ten messages, so the first is gone after eleven.
    await speaker.ask("create_room", room="short", config={"history_size": 10})
    joined = await speaker.join("short:log")
    for number in range(15):
        await speaker.publish("short:log", {"n": number})
    for sequence, is_there in ((4, False), (5, True), (15, True)):
        recovered = await client.join(
            "short:log", recover={"epoch": joined["epoch"], "sequence": sequence}
        )
        assert recovered["recovered"] is is_there, (sequence, recovered)
        for expected in range(sequence + 1, 16) if is_there else ():
            assert (await client.event())["metadata"]["sequence"] == expected
        assert await client.is_quiet(), client.kept
        await client.ask("leave_channel", channel="short:log")


run(main)
