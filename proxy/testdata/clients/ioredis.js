// What applications do with ioredis, through the address given. See README.md.
'use strict';

const Redis = require('ioredis');
const { check, run, values } = require('./steps.js');

const at = process.argv[2].lastIndexOf(':');
const host = process.argv[2].slice(0, at);
const port = Number(process.argv[2].slice(at + 1));

// No reconnects and no retries: they would hide what is looked for here.
async function open(protocol, options) {
  const client = new Redis({
    host, port, protocol, lazyConnect: true, retryStrategy: null, maxRetriesPerRequest: 0, ...options,
  });
  client.on('error', (err) => { throw err; });
  await client.connect();
  return client;
}

const steps = {
  async connecting(client, again) {
    await client.flushall();
    check(await client.ping(), 'PONG', 'PING');
    const named = await again({ connectionName: 'me' });
    check(await named.client('GETNAME'), 'me', 'CLIENT GETNAME');
    check(await client.client('GETNAME'), null, 'CLIENT GETNAME of a client without a name');
    named.disconnect();
  },

  async pipeline(client) {
    const p = client.pipeline();
    for (let i = 0; i < 5000; i++) p.set(`p${i}`, `value-${i}`).get(`p${i}`);
    const got = await p.exec();
    check(got.length, 10000, 'replies to a pipeline');
    for (let i = 0; i < 5000; i++) check(got[2 * i + 1], [null, `value-${i}`], `reply ${i} of a pipeline`);
  },

  async transactions(client) {
    for (let i = 0; i < 100; i++) {
      const got = await client.multi().set('tx', i).incr('tx').get('tx').exec();
      check(got, [[null, 'OK'], [null, i + 1], [null, String(i + 1)]], 'a transaction');
    }
    // One command at a time, as the library can be told to.
    await client.multi({ pipeline: false });
    check(await client.set('tx', 7), 'QUEUED', 'a queued command');
    check(await client.exec(), ['OK'].map((v) => [null, v]), 'an interactive transaction');
    await client.multi().call('NOSUCHCOMMAND').set('never', 'set').exec().then(
      () => { throw new Error('a transaction with an unknown command went through'); },
      (err) => check(/EXECABORT/.test(err.message), true, `the error ${err.message}`));
    check(await client.exists('never'), 0, 'what a refused transaction left');
  },

  async watch(client, again) {
    await client.set('counter', 0);
    const count = async () => {
      const c = await again();
      for (let done = 0; done < 25;) {
        await c.watch('counter');
        const n = Number(await c.get('counter'));
        if (await c.multi().set('counter', n + 1).exec() !== null) done++;
      }
      c.disconnect();
    };
    // Fewer than the pool has connections for at once; the others wait for theirs.
    await Promise.all(Array.from({ length: 8 }, count));
    check(await client.get('counter'), '200', 'the counter');
  },

  async 'blocking pop'(client, again) {
    const blocked = await again();
    const got = blocked.blpop('queue', 10);
    await client.rpush('queue', 'job');
    check(await got, ['queue', 'job'], 'BLPOP');
    const start = Date.now();
    check(await blocked.blpop('queue', 1), null, 'BLPOP in vain');
    check(Date.now() - start >= 900, true, 'BLPOP in vain waits');
    blocked.disconnect();
  },

  async subscribe(client, again) {
    const sub = await again();
    const got = [];
    sub.on('message', (_, m) => got.push(m));
    sub.on('pmessage', (_, __, m) => got.push(m));
    await sub.subscribe('news');
    await sub.psubscribe('alerts.*');
    for (let i = 0; i < 200; i++) {
      check(await client.publish('news', i), 1, 'PUBLISH');
      check(await client.publish('alerts.red', i), 1, 'PUBLISH to a pattern');
    }
    for (let i = 0; got.length < 400 && i < 1000; i++) await new Promise((r) => setTimeout(r, 10));
    check(got, Array.from({ length: 400 }, (_, i) => String(i >> 1)), 'messages');
    await sub.unsubscribe('news');
    await sub.punsubscribe('alerts.*');
    check(await sub.get('no-longer-subscribed'), null, 'a command after UNSUBSCRIBE');
    sub.disconnect();
  },

  async databases(_, again) {
    await Promise.all([0, 1, 2, 3, 4].map(async (db) => {
      const c = await again({ db });
      for (let i = 0; i < 200; i++) {
        await c.set('same', `${db}.${i}`);
        check(await c.get('same'), `${db}.${i}`, `database ${db}`);
      }
      c.disconnect();
    }));
  },

  async values(client) {
    for (const v of values()) {
      check(await client.set('value', v), 'OK', `SET of ${v.length} bytes`);
      check((await client.getBuffer('value')).equals(v), true, `GET of ${v.length} bytes`);
    }
    await client.del('value');
  },

  async scripts(client) {
    await client.del('script:n');
    const lua = "return {KEYS[1], ARGV[1], redis.call('incr', KEYS[1])}";
    client.defineCommand('mine', { numberOfKeys: 1, lua });
    for (let i = 1; i <= 3; i++) check(await client.mine('script:n', 'x'), ['script:n', 'x', i], 'a script');
  },
};

run(`ioredis ${require('ioredis/package.json').version}`, open, steps);
