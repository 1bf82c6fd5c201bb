// A client of the bus on the package `ws`, for the programs beside this file.
//
// Each of them takes the URLs of the WebSocket, the telemetry WebSocket and the HTTP port of a bus
// that nobody else has used, shows one thing by assertions, and ends with 0, or with 1 and the
// reason on standard error.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const installed = process.env.ARQONBUS_TEST_CLIENTS;
assert.ok(installed, 'ARQONBUS_TEST_CLIENTS says where the package ws is installed');
export const WebSocket = createRequire(join(installed, 'node', 'package.json'))('ws');

// How long one wait may take; the whole program may take twice that.
const PATIENCE_MS = 25_000;

let count = 0;

/** A whole envelope; `address` is `room:channel`. */
export function envelope(type, from, address, payload, more = {}) {
  const [room, channel] = address.split(':');
  count += 1;
  return {
    version: '1.0',
    id: `arq_${from}-${count}`,
    type,
    room,
    channel,
    from,
    timestamp: new Date().toISOString(),
    payload,
    ...more,
  };
}

/** The URL with a query string. */
export const withQuery = (url, query) => `${url}/?${new URLSearchParams(query)}`;

/** The bus said no. */
export class Refused extends Error {
  constructor(reply) {
    super(`${reply.code} ${reply.error}: ${reply.message}`);
    Object.assign(this, { code: reply.code, error: reply.error, field: reply.field });
  }
}

/** A connected client. What it is not asked for at once is kept, in order. */
export class Client {
  kept = [];
  #waiting = null;
  /** Settles with the code and the reason when the connection is closed. */
  closed;

  constructor(url, options = {}) {
    const { query = {}, protocols = [], ...socketOptions } = options;
    this.socket = new WebSocket(withQuery(url, query), protocols, {
      maxPayload: 0,
      ...socketOptions,
    });
    this.socket.on('message', (data, isBinary) => {
      assert.equal(isBinary, false, 'the bus sends text');
      this.kept.push(JSON.parse(data.toString()));
      this.#look();
    });
    this.closed = new Promise((resolve) => {
      this.socket.on('close', (code, reason) => {
        this.isClosed = true;
        resolve({ code, reason: reason.toString() });
        this.#look();
      });
    });
    // A refused handshake and a reset connection are told by `closed` or by `knock`.
    this.socket.on('error', (error) => {
      this.failure = error;
    });
  }

  /** Connects and awaits the welcome. */
  static async connect(url, query = {}, options = {}) {
    const client = new Client(url, { query, ...options });
    const first = await client.find(() => true);
    assert.equal(first.payload.event, 'welcome');
    assert.equal(first.from, 'arqonbus_server');
    client.welcome = first.payload;
    client.id = first.payload.client_id;
    return client;
  }

  /** The first message that is meant. */
  find(isMeant) {
    assert.equal(this.#waiting, null, 'one wait at a time');
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting = null;
        reject(new Error(`waited in vain; kept ${JSON.stringify(this.kept)}`));
      }, PATIENCE_MS);
      const settle = (work) => {
        clearTimeout(timer);
        this.#waiting = null;
        work();
      };
      this.#waiting = () => {
        const place = this.kept.findIndex(isMeant);
        if (place >= 0) settle(() => resolve(this.kept.splice(place, 1)[0]));
        else if (this.isClosed) settle(() => reject(this.failure ?? new Error('it was closed')));
      };
      this.#waiting();
    });
  }

  #look() {
    this.#waiting?.();
  }

  /** Sends an envelope and gives its id. */
  send(message) {
    this.socket.send(JSON.stringify(message));
    return message.id;
  }

  event() {
    return this.find((message) => message.type === 'event');
  }

  async notice(name) {
    const isMeant = (message) => message.type === 'system' && message.payload.event === name;
    return (await this.find(isMeant)).payload;
  }

  /** The payload of the answer to the message of that id. */
  async reply(id) {
    const isMeant = ({ type, payload }) => type === 'command_response' && payload.request_id === id;
    return (await this.find(isMeant)).payload;
  }

  /** The result in the answer to a message, or `Refused`. */
  async exchange(message) {
    const reply = await this.reply(this.send(message));
    if (reply.status !== 'success') throw new Refused(reply);
    return reply.result;
  }

  /** Gives a command, which is addressed by its parameters alone. */
  ask(command, parameters = {}) {
    return this.exchange(envelope('command', this.id, '*:*', { command, parameters }));
  }

  /** Joins `room:channel`. */
  join(channel, parameters = {}) {
    return this.ask('join_channel', { channel, ...parameters });
  }

  /** Publishes an event, and gives the result in its answer. */
  publish(address, payload, { metadata, ...more } = {}) {
    const wishes = { ...metadata, ack: true };
    return this.exchange(envelope('event', this.id, address, payload, { metadata: wishes, ...more }));
  }

  /** Asserts that nothing came that was not asked for; the bus has answered all before this. */
  async isQuiet() {
    await this.ask('ping');
    assert.deepEqual(this.kept, []);
  }

  /** Closes the connection. */
  close() {
    this.socket.close(1000);
    return this.closed;
  }
}

/** The status and the body of a handshake that is refused. */
export function denied(url, query, options = {}) {
  return new Promise((resolve, reject) => {
    const { protocols = [], ...socketOptions } = options;
    const socket = new WebSocket(withQuery(url, query), protocols, socketOptions);
    socket.on('open', () => reject(new Error('it was let in')));
    socket.on('error', reject);
    socket.on('unexpected-response', async (_request, response) => {
      let text = '';
      for await (const piece of response) text += piece;
      resolve({ status: response.statusCode, body: JSON.parse(text) });
    });
  });
}

/** Asserts that the bus refuses it so. */
export async function refused(code, error, work) {
  await assert.rejects(work, (no) => {
    assert.ok(no instanceof Refused, no);
    assert.deepEqual([no.code, no.error], [code, error]);
    return true;
  });
}

/** Waits for so many milliseconds. */
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Runs `main(bus, telemetry, http)` and ends the program. */
export function run(main) {
  const over = (error) => {
    console.error(error);
    process.exit(1);
  };
  setTimeout(() => over(new Error('it takes too long')), 2 * PATIENCE_MS).unref();
  main(...process.argv.slice(2, 5)).then(() => process.exit(0), over);
}
