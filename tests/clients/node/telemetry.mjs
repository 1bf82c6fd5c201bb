// The telemetry socket tells what happens on the bus, and passes on what clients measure.

import assert from 'node:assert/strict';
import { Client, envelope, run } from './bus.mjs';

run(async (bus, telemetry, http) => {
  const reader = new Client(telemetry);
  await new Promise((resolve) => reader.socket.on('open', resolve));
  const told = async (eventType, clientId) => {
    const { type, payload } = await reader.find(
      ({ payload }) => payload.eventType === eventType && payload.payload.client_id === clientId,
    );
    assert.equal(type, 'telemetry');
    return payload.payload;
  };

  const member = await Client.connect(bus, { join: 'integriguard:telemetry-stream' });
  const agent = await Client.connect(bus, { client_id: 'agent', client_type: 'ai-agent' });
  assert.equal((await told('client_connected', 'agent')).client_type, 'ai-agent');
  await agent.join('lab:new');
  assert.equal((await told('joined', 'agent')).channel, 'new');
  assert.ok(['joined', 'published'].includes((await told('agent_activity', 'agent')).action));

  const measured = { eventType: 'cpu', payload: { load: 0.5, host: 'grün' } };
  agent.send(envelope('telemetry', 'agent', 'lab:new', measured));
  for (const client of [reader, member]) {
    const { from, payload } = await client.find(({ payload }) => payload.eventType === 'cpu');
    assert.deepEqual([from, payload], ['agent', measured]);
  }
  await agent.close();
  assert.equal((await told('client_disconnected', 'agent')).code, 1000);

  const ready = await fetch(`${http}/ready`);
  assert.equal(ready.status, 200);
  assert.match(await (await fetch(`${http}/metrics`)).text(), /arqonbus_active_clients/);
});
