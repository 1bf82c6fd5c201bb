// A reader that loses its connection again and again misses nothing, while others publish.

import assert from 'node:assert/strict';
import { Client, run, sleep } from './bus.mjs';

const LOSSES = 8;

run(async (bus) => {
  const speaker = await Client.connect(bus, { client_id: 'speaker', join: 'lab:log' });
  let reader = await Client.connect(bus);
  const { epoch, sequence } = await reader.join('lab:log');
  const place = { epoch, sequence };
  const heard = [];
  let published = 0;
  let replayed = 0;
  let isOver = false;

  const read = async (count) => {
    for (let n = 0; n < count; n += 1) {
      const event = await reader.event();
      assert.equal(event.metadata.sequence, place.sequence + 1);
      place.sequence += 1;
      replayed += event.metadata.replayed === true ? 1 : 0;
      heard.push(event.payload.n);
    }
  };
  const speaking = (async () => {
    while (!isOver) {
      await speaker.publish('lab:log', { n: published });
      published += 1;
      await sleep(1);
    }
  })();

  for (let loss = 0; loss < LOSSES; loss += 1) {
    await read(10 + loss);
    // No goodbye: the connection is just gone.
    reader.socket.terminate();
    // One more may have been read already than the speaker knows of.
    const missed = published + 21;
    while (published < missed) await sleep(2);
    reader = await Client.connect(bus);
    const joined = await reader.join('lab:log', { recover: place });
    assert.equal(joined.recovered, true);
    assert.ok(joined.missed >= 20, `${joined.missed} were missed`);
  }
  isOver = true;
  await speaking;
  await read(published - heard.length);
  assert.deepEqual(heard, heard.map((_, n) => n), 'nothing missing, doubled or reordered');
  assert.ok(replayed >= LOSSES * 20, `${replayed} were replayed`);
  await reader.isQuiet();

  const late = await Client.connect(bus);
  const joined = await late.join('lab:log', { recover: { epoch: 'another', sequence: 1 } });
  assert.deepEqual([joined.recovered, joined.missed], [false, 0]);
  await late.isQuiet();
});
