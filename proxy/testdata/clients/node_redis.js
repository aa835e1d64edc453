// What applications do with node-redis, through the address given. See README.md.
'use strict';

const { createClient, RESP_TYPES, WatchError, defineScript } = require('redis');
const { check, run, values } = require('./steps.js');

const mine = defineScript({
  SCRIPT: "return {KEYS[1], ARGV[1], redis.call('incr', KEYS[1])}",
  NUMBER_OF_KEYS: 1,
  parseCommand(parser, key, arg) { parser.pushKey(key); parser.push(arg); },
  transformReply: (reply) => reply,
});

// No reconnects: they would hide what is looked for here.
async function open(RESP, options) {
  const client = createClient({
    url: `redis://${process.argv[2]}`, RESP, scripts: { mine }, ...options,
    socket: { reconnectStrategy: false },
  });
  client.on('error', (err) => { throw err; });
  return client.connect();
}

const steps = {
  async connecting(client, again) {
    await client.flushAll();
    check(await client.ping(), 'PONG', 'PING');
    const named = await again({ name: 'me' });
    check(await named.clientGetName(), 'me', 'CLIENT GETNAME');
    check(await client.clientGetName(), null, 'CLIENT GETNAME of a client without a name');
    named.destroy();
  },

  async pipeline(client) {
    const all = [];
    for (let i = 0; i < 5000; i++) all.push(client.set(`p${i}`, `value-${i}`), client.get(`p${i}`));
    const got = await Promise.all(all);
    for (let i = 0; i < 5000; i++) check(got[2 * i + 1], `value-${i}`, `reply ${i} of a pipeline`);
  },

  async transactions(client) {
    for (let i = 0; i < 100; i++) {
      const got = await client.multi().set('tx', i).incr('tx').get('tx').exec();
      check(got, ['OK', i + 1, String(i + 1)], 'a transaction');
    }
    await client.multi().addCommand(['NOSUCHCOMMAND']).set('never', 'set').exec().then(
      () => { throw new Error('a transaction with an unknown command went through'); }, () => {});
    check(await client.exists('never'), 0, 'what a refused transaction left');
  },

  async watch(client, again) {
    await client.set('counter', 0);
    const count = async () => {
      const c = await again();
      for (let done = 0; done < 25;) {
        await c.watch('counter');
        const n = Number(await c.get('counter'));
        try {
          await c.multi().set('counter', n + 1).exec();
          done++;
        } catch (err) {
          if (!(err instanceof WatchError)) throw err;
        }
      }
      c.destroy();
    };
    await Promise.all(Array.from({ length: 8 }, count));
    check(await client.get('counter'), '200', 'the counter');
  },

  async 'blocking pop'(client, again) {
    const blocked = await again();
    const got = blocked.blPop('queue', 10);
    await client.rPush('queue', 'job');
    check({ ...(await got) }, { key: 'queue', element: 'job' }, 'BLPOP');
    const start = Date.now();
    check(await blocked.blPop('queue', 1), null, 'BLPOP in vain');
    check(Date.now() - start >= 900, true, 'BLPOP in vain waits');
    blocked.destroy();
  },

  async subscribe(client, again) {
    const sub = await again();
    const got = [];
    await sub.subscribe('news', (m) => got.push(m));
    await sub.pSubscribe('alerts.*', (m) => got.push(m));
    for (let i = 0; i < 200; i++) {
      check(await client.publish('news', String(i)), 1, 'PUBLISH');
      check(await client.publish('alerts.red', String(i)), 1, 'PUBLISH to a pattern');
    }
    for (let i = 0; got.length < 400 && i < 1000; i++) await new Promise((r) => setTimeout(r, 10));
    check(got, Array.from({ length: 400 }, (_, i) => String(i >> 1)), 'messages');
    await sub.unsubscribe();
    await sub.pUnsubscribe();
    check(await sub.get('no-longer-subscribed'), null, 'a command after UNSUBSCRIBE');
    sub.destroy();
  },

  async databases(_, again) {
    await Promise.all([0, 1, 2, 3, 4].map(async (database) => {
      const c = await again({ database });
      for (let i = 0; i < 200; i++) {
        await c.set('same', `${database}.${i}`);
        check(await c.get('same'), `${database}.${i}`, `database ${database}`);
      }
      c.destroy();
    }));
  },

  async values(client) {
    const binary = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
    for (const v of values()) {
      check(await client.set('value', v), 'OK', `SET of ${v.length} bytes`);
      check((await binary.get('value')).equals(v), true, `GET of ${v.length} bytes`);
    }
    await client.del('value');
  },

  async scripts(client) {
    await client.del('script:n');
    for (let i = 1; i <= 3; i++) check(await client.mine('script:n', 'x'), ['script:n', 'x', i], 'a script');
  },
};

run(`node-redis ${require('redis/package.json').version}`, open, steps);
