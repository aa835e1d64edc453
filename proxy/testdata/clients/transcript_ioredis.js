// Writes down what ioredis is told, through the address given, for comparison. See README.md.
'use strict';

const Redis = require('ioredis');
const t = require('./transcript.js');
const { attempt, everyByte, megabyte, say } = t;

const at = process.argv[2].lastIndexOf(':');

// No reconnects and no retries: they would hide what is looked for here.
async function open(protocol, options) {
  const client = new Redis({
    host: process.argv[2].slice(0, at), port: Number(process.argv[2].slice(at + 1)), protocol, lazyConnect: true,
    retryStrategy: null, maxRetriesPerRequest: 0, ...options,
  });
  client.on('error', (err) => { throw err; });
  await client.connect();
  return Object.assign(client, { raw: client.call, end: client.disconnect });
}

const waiting = (client, call) => t.waiting(() => client.info('clients'), call);

// collect gives everything that is published to a client to an inbox.
function collect(sub) {
  const inbox = new t.Inbox();
  for (const event of ['messageBuffer', 'pmessageBuffer', 'smessageBuffer']) {
    sub.on(event, (...got) => inbox.got.push([event, ...got]));
  }
  return inbox;
}

async function all(stream) {
  const got = [];
  for await (const part of stream) got.push(...part);
  return got;
}

const pairs = (list) => list.flatMap((v, i) => (i % 2 ? [] : [`${v} ${list[i + 1]}`]));
const sorted = (list) => [...new Set(list)].sort();

const steps = {
  async pipelines(client, again) {
    const p = client.pipeline();
    for (let i = 0; i < 1000; i++) p.set(`p${i}`, i).incr(`p${i}`).get(`p${i}`);
    say('1,000 times SET, INCR, GET', t.digest(await p.exec()));
    say('errors in the middle', await client.pipeline().set('a', 'x').incr('a').lpush('l', 1, 2).hset('h', 'f', 1)
      .hgetall('h').lpop('a').exec());
    say('all kinds of commands', await client.pipeline().eval('return ARGV[1]', 0, 'one').get('a').select(1).get('a')
      .select(0).blpop('none', 0.01).get('a').exec());
    const auto = await again({ enableAutoPipelining: true });
    say('automatic', await Promise.all([auto.get('a'), auto.incr('n'), auto.hget('h', 'f'), auto.incr('n'), auto.get('n')]));
    await attempt('an error in an automatic one', auto.incr('a'));
    auto.disconnect();
  },

  async transactions(client, again) {
    say('MULTI', await client.multi().set('t', 1).incr('t').get('t').hset('t:h', 'f', 'v').hgetall('t:h').exec());
    say('errors of commands', await client.multi().set('t', 'x').incr('t').get('t').exec());
    await attempt('EXECABORT', client.multi().call('NOSUCHCOMMAND').set('never', 1).exec());
    say('left of it', await client.exists('never'));

    const c = await again();
    await c.watch('w');
    await client.set('w', 'theirs');
    say('EXEC after a conflict', await c.multi().set('w', 'mine').exec());
    await c.watch('w');
    say('EXEC of the retry', await c.multi().set('w', 'mine').get('w').exec());
    await c.watch('w');
    await c.unwatch();
    await client.set('w', 'theirs');
    say('EXEC after UNWATCH', await c.multi().get('w').exec());
    await Promise.all([1, 2, 3, 4].map(async () => {
      const counter = await again();
      for (let done = 0; done < 10;) {
        await counter.watch('count');
        const n = Number(await counter.get('count'));
        if (await counter.multi().set('count', n + 1).exec() !== null) done++;
      }
      counter.disconnect();
    }));
    say('4 clients counted to', await client.get('count'));

    say('MULTI by itself', await c.multi({ pipeline: false }));
    say('queued', [await c.set('q', 1), await c.incr('q')]);
    say('not visible yet', await client.get('q'));
    await attempt('MULTI in MULTI', c.call('MULTI'));
    await attempt('WATCH in MULTI', c.watch('q'));
    await attempt('EXEC by itself', c.exec());
    say('DISCARD', [await c.multi({ pipeline: false }), await c.del('q'), await c.discard(), await c.get('q')]);
    await attempt('EXEC without MULTI', c.call('EXEC'));
    await attempt('DISCARD without MULTI', c.call('DISCARD'));
    c.disconnect();
  },

  async scripts(client) {
    say('EVAL', await client.eval("return {KEYS[1], ARGV[1], 7, {1, {2}}, false}", 1, 'k', 'v'));
    say('a status', await client.eval("return redis.status_reply('FINE')", 0));
    await attempt('types of RESP3', client.eval(
      "redis.setresp(3) redis.call('hset', KEYS[1], 'f', 'v') return {redis.call('hgetall', KEYS[1]), {double=1.5}, true}", 1, 'h3'));
    await attempt('an error of its own', client.eval("return redis.error_reply('MINE it is')", 0));
    await attempt('an error of a command', client.eval("redis.call('set', 's', 'x') return redis.call('incr', 's')", 0));
    await attempt('an error of the compiler', client.eval('this is no Lua', 0));
    await attempt('EVALSHA of nothing', client.evalsha('f'.repeat(40), 0));
    client.defineCommand('mine', { numberOfKeys: 1, lua: "return {redis.call('incrby', KEYS[1], ARGV[1]), ARGV[2]}" });
    say('EVALSHA that falls back', [await client.mine('s:n', 1, 'x'), await client.mineBuffer('s:n', 2, everyByte)]);
    say('SCRIPT FLUSH', await client.script('FLUSH'));
    say('falls back again', await client.mine('s:n', 3, 'x'));
    await client.script('FLUSH');
    say('in a pipeline', await client.pipeline().mine('s:n', 4, 'x').get('s:n').exec());
    say('in a transaction', await client.multi().mine('s:n', 5, 'x').get('s:n').exec());
    say('FUNCTION LOAD', await client.function('LOAD', t.library));
    say('FCALL', [await client.fcall('put', 1, 'f', everyByte), await client.callBuffer('FCALL_RO', 'look', 1, 'f')]);
    await attempt('FCALL_RO that writes', client.call('FCALL_RO', 'put', 1, 'f', 1));
    await attempt('FCALL of nothing', client.fcall('nothing', 0));
    await attempt('FUNCTION LOAD again', client.function('LOAD', t.library));
    say('FUNCTION LIST', await client.function('LIST', 'LIBRARYNAME', 'mine'));
    say('FUNCTION DELETE', await client.function('DELETE', 'mine'));
    say('a megabyte', await client.evalBuffer("redis.call('set', KEYS[1], ARGV[1]) return ARGV[1]", 1, everyByte, megabyte));
  },

  async streams(client, again) {
    const c = await again();
    const read = (who, from, ...options) => c.xreadgroup('GROUP', 'g', who, ...options, 'STREAMS', 'st', from);
    await attempt('XGROUP CREATE of nothing', client.xgroup('CREATE', 'st', 'g', '0'));
    say('XGROUP CREATE', await client.xgroup('CREATE', 'st', 'g', '0', 'MKSTREAM'));
    await attempt('XGROUP CREATE again', client.xgroup('CREATE', 'st', 'g', '0'));
    for (let i = 1; i <= 5; i++) say('XADD', await client.xadd('st', `1-${i}`, 'n', i, 'bytes', everyByte));
    await attempt('XADD of an old id', client.xadd('st', '1-1', 'n', 0));
    say('alice reads', await read('alice', '>', 'COUNT', 2));
    say('bob reads', await read('bob', '>', 'COUNT', 2, 'BLOCK', 50));
    say("alice's history", await read('alice', '0'));
    say('XACK', await client.xack('st', 'g', '1-1', '1-3', '9-9'));
    say("alice's history after XACK", await c.xreadgroupBuffer('GROUP', 'g', 'alice', 'STREAMS', 'st', '0'));
    say('XPENDING', await client.xpending('st', 'g'));
    say('the rest', await read('alice', '>', 'BLOCK', 50));
    say('BLOCK in vain', await read('alice', '>', 'BLOCK', 50));
    let w = await waiting(client, () => read('alice', '>', 'BLOCK', 5000));
    await client.xadd('st', '2-1', 'from', 'another');
    say('BLOCK until XADD', await w.result);
    say('XAUTOCLAIM', await client.xautoclaim('st', 'g', 'carol', 0, '0-0', 'COUNT', 2));
    say('XAUTOCLAIM of the rest', await client.xautoclaim('st', 'g', 'carol', 0, '1-5', 'JUSTID'));
    say('XCLAIM', await client.xclaim('st', 'g', 'dave', 0, '1-2', 'JUSTID'));
    const pending = await client.xpending('st', 'g', '-', '+', 10);
    say('pending', pending.map(([id, who, , times]) => [id, who, times]));
    w = await waiting(client, () => c.xread('BLOCK', 5000, 'STREAMS', 'st', '$'));
    await client.xadd('st', '3-1', 'n', 9);
    say('XREAD BLOCK until XADD', await w.result);
    say('all is read', (await read('alice', '>')).length);
    w = await waiting(client, () => read('alice', '>', 'BLOCK', 5000));
    say('XGROUP DESTROY', await client.xgroup('DESTROY', 'st', 'g'));
    say('BLOCK until XGROUP DESTROY', await w.result);
    c.disconnect();
  },

  async pubsub(client, again) {
    const [a, b, c, d] = [await again(), await again(), await again(), await again()];
    const [atA, atB, atC, atD] = [a, b, c, d].map(collect);
    say('a subscribes', await a.subscribe('news', everyByte));
    say('b subscribes', [await b.subscribe('news'), await b.psubscribe('n*', '*s')]);
    say('c and d subscribe', [await c.ssubscribe('shard', 'news'), await d.psubscribe('[x]*')]);
    const sent = [];
    for (const m of ['', 'one', everyByte, megabyte]) sent.push(await client.publish('news', m));
    say('PUBLISH to several', sent);
    say('PUBLISH to others', [await client.publish(everyByte, 'bytes'), await client.publish('x1', 'x'),
      await client.publish('alone', 'is nobody')]);
    say('SPUBLISH', [await client.spublish('shard', everyByte), await client.spublish('news', 's')]);
    // ioredis takes channels for text, so that those that are not cannot be told apart.
    say('a receives', (await atA.take(5)).map(([event, channel, m]) => [event, channel.length, m]));
    // The channel's message comes first; the order of patterns is the server's secret.
    const byPattern = (x, y) => (x[1] < y[1] ? -1 : 1);
    for (let i = 0; i < 4; i++) say('b receives', [...await atB.take(1), ...(await atB.take(2)).sort(byPattern)]);
    say('c and d receive', [await atC.take(2), await atD.take(1)]);
    say('PUBSUB NUMSUB', await client.pubsub('NUMSUB', 'news', 'none'));
    say('PUBSUB NUMPAT', await client.pubsub('NUMPAT'));
    say('PUBSUB SHARDCHANNELS', (await client.pubsub('SHARDCHANNELS')).sort());
    say('they unsubscribe', [await a.unsubscribe('news'), await b.punsubscribe('*s'), await c.sunsubscribe('shard')]);
    say('PUBLISH afterwards', [await client.publish('news', 'two'), await client.spublish('shard', 'two')]);
    say('b receives less', await atB.take(2));
    await attempt('GET of a subscriber', a.get('k'));
    say('a leaves', await a.unsubscribe());
    await attempt('GET of one who was a subscriber', a.get('k'));
    say('the others leave', [await b.unsubscribe('news'), await b.punsubscribe(), await c.sunsubscribe(),
      await d.punsubscribe()]);
    say('nothing else has come', [atA.got, atB.got, atC.got, atD.got]);
    say('PUBLISH in a transaction', await client.multi().publish('news', 1).get('k').exec());
    for (const sub of [a, b, c, d]) sub.disconnect();
  },

  async blocking(client, again) {
    const c = await again();
    let w = await waiting(client, () => c.blpopBuffer('q1', 'q2', 5));
    await client.rpush('q2', everyByte);
    say('BLPOP', await w.result);
    w = await waiting(client, () => c.blmove('q1', 'q3', 'LEFT', 'RIGHT', 5));
    await client.rpush('q1', 'moved');
    say('BLMOVE', [await w.result, await client.lrange('q3', 0, -1)]);
    w = await waiting(client, () => c.bzpopmin('z1', 'z2', 5));
    await client.zadd('z2', 1.5, 'a', 2, 'b');
    say('BZPOPMIN', [await w.result, await c.bzpopmin('z2', 1)]);
    w = await waiting(client, () => c.brpop('q4', 5));
    await client.multi().lpush('q4', 1, 2, 3).lpop('q4').exec();
    say('BRPOP from a transaction', await w.result);
    const start = Date.now();
    say('in vain', [await c.blpop('none', 0.1), await c.blmove('none', 'q3', 'LEFT', 'RIGHT', 0.1),
      await c.bzpopmin('none', 0.1), await c.blmpop(0.1, 1, 'none', 'LEFT')]);
    say('they have waited', Date.now() - start >= 390);
    await client.set('q5', 'a string');
    await attempt('BLPOP of the wrong type', c.blpop('q5', 1));
    await attempt('BLPOP with a bad timeout', c.call('BLPOP', 'q1', 'soon'));
    say('BLPOP in a transaction', await c.multi().blpop('none', 0).exec());
    // What a client pipelines behind a command that waits is answered after it.
    w = await waiting(client, () => Promise.all([c.blpop('q6', 5), c.get('q5'), c.incr('q7')]));
    await client.rpush('q6', 'x');
    say('a pipeline behind BLPOP', await w.result);
    c.disconnect();
  },

  // ioredis passes over invalidations, so what has come is compared byte by byte.
  async tracking(client, again, protocol) {
    if (protocol !== 3) return;
    const c = await again();
    let raw = '';
    c.stream.on('data', (b) => { raw += b.toString('latin1'); });
    const invalidated = async (what, ...keys) => {
      const ends = keys.length ? `$${keys.at(-1).length}\r\n${keys.at(-1)}\r\n` : '_\r\n';
      await t.until(`${what} in ${JSON.stringify(raw)}`, () => /invalidate\r\n[*_]/.test(raw) && raw.endsWith(ends));
      say(what, raw);
      raw = '';
    };
    say('TRACKING', [await c.client('TRACKING', 'ON'), await c.get('cached'), await c.mget('cached:1', 'cached:2')]);
    await client.set('cached', 1);
    await invalidated('invalidated', 'cached');
    await client.set('cached', 2);
    say('and only once', [await c.ping(), raw]);
    raw = '';
    await client.mset('cached:1', 1, 'cached:2', 1, 'never read', 1);
    await invalidated('both', 'cached:2');
    say('its own', [await c.get('own'), await c.set('own', 1)]);
    await invalidated('comes too', 'own');
    say('in a transaction', [await c.get('own'), await c.multi().set('own', 2).get('own').exec()]);
    await invalidated('comes behind it', 'own');
    say('and when it blocks', await c.get('blocks'));
    const w = await waiting(client, () => c.blpop('tq', 5));
    await client.set('blocks', 1);
    await invalidated('comes at once', 'blocks');
    await client.rpush('tq', 1);
    say('and then the reply', await w.result);
    raw = '';
    say('OPTIN', [await c.client('TRACKING', 'OFF'), await c.client('TRACKING', 'ON', 'OPTIN'), await c.get('a'),
      await c.client('CACHING', 'YES'), await c.get('b')]);
    await client.mset('a', 1, 'b', 1);
    await invalidated('what it asked for', 'b');
    say('BCAST', [await c.client('TRACKING', 'OFF'), await c.client('TRACKING', 'ON', 'BCAST', 'PREFIX', 'user:', 'NOLOOP')]);
    await c.set('user:2', 1);
    await client.set('user:1', 1);
    await invalidated('by prefix', 'user:1');
    say('TRACKINGINFO', await c.client('TRACKINGINFO'));
    await client.flushdb();
    await invalidated('FLUSHDB');
    say('OFF', [await c.client('TRACKING', 'OFF'), await client.set('user:1', 2), await c.get('user:1'), raw]);
    c.disconnect();
  },

  // In RESP2, invalidations go to a subscriber.
  async redirect(client, again) {
    const [listener, c] = [await again({ protocol: 2 }), await again()];
    const id = await listener.client('ID');
    const inbox = new t.Inbox();
    listener.on('message', (channel, keys) => inbox.got.push([channel, keys]));
    await listener.subscribe('__redis__:invalidate');
    say('TRACKING', await c.client('TRACKING', 'ON', 'REDIRECT', id));
    say('redirected to the listener', await c.client('GETREDIR') === id);
    say('read', [await c.get('cached'), await c.mget('cached:1', 'cached:2')]);
    await client.set('cached', 1);
    await client.set('cached', 2);
    await client.mset('cached:2', 1, 'never read', 1);
    say('invalidated', await inbox.take(2));
    say('BCAST', [await c.client('TRACKING', 'OFF'),
      await c.client('TRACKING', 'ON', 'REDIRECT', id, 'BCAST', 'PREFIX', 'user:', 'NOLOOP')]);
    await c.set('user:2', 1);
    await client.set('user:1', 1);
    say('by prefix', await inbox.take(1));
    await attempt('a redirection to nobody', c.client('TRACKING', 'ON', 'REDIRECT', 2 ** 40));
    say('nothing else has come', inbox.got);
    c.disconnect();
    listener.disconnect();
  },

  async scanning(client) {
    const p = client.pipeline();
    for (let i = 0; i < 2000; i++) {
      p.set(`scan:${i}`, i).hset('scan-h', `f${i}`, i).sadd('scan-s', `m${i}`).zadd('scan-z', i, `m${i}`);
    }
    await p.exec();
    say('SCAN', t.digest(sorted(await all(client.scanStream({ match: 'scan:*', count: 100 })))));
    say('SCAN of a type', sorted(await all(client.scanStream({ count: 500, type: 'zset' }))));
    say('HSCAN', t.digest(sorted(pairs(await all(client.hscanStream('scan-h', { count: 200 }))))));
    say('SSCAN', t.digest(sorted(await all(client.sscanStream('scan-s', { match: 'm1*', count: 200 })))));
    say('ZSCAN', t.digest(sorted(pairs(await all(client.zscanStream('scan-z', { count: 200 }))))));
    say('SCAN of nothing', await all(client.scanStream({ match: 'nothing*', count: 5000 })));
  },

  async binary(client) {
    for (const [name, v] of Object.entries(t.bytes)) {
      say(`a value: ${name}`, [await client.set('b', v), await client.getBuffer('b'), await client.append('b', v),
        await client.getrangeBuffer('b', 250, 260)]);
      say(`a key: ${name}`, [await client.set(v, 'x'), await client.get(v), await client.del(v), await client.get(v)]);
      say(`a field: ${name}`, [await client.hset('bh', v, v), await client.callBuffer('HKEYS', 'bh'), await client.del('bh')]);
      say(`ECHO: ${name}`, await client.echoBuffer(v));
      say(`a script's: ${name}`, await client.evalBuffer('return {KEYS[1], ARGV[1], #ARGV[1]}', 1, v, v));
      say(`a transaction's: ${name}`, await client.multi().set(v, v).getBuffer(v).del(v).exec());
    }
    const many = Array.from({ length: 1000 }, (_, i) => Buffer.from(`m${i}\0`));
    say('1,000 arguments', await client.mset(...many.flatMap((k) => [k, everyByte])));
    say('1,000 values', t.digest(await client.mgetBuffer(...many)));
  },

  async databases(client, again) {
    const clients = [];
    for (let db = 0; db < 4; db++) {
      const c = await again({ db });
      clients.push(c);
      await c.flushdb();
      await c.set('same', `of ${db}`);
    }
    say('each its own', await Promise.all(clients.map((c) => c.get('same'))));
    const [, one, two, three] = clients;
    say('MOVE', [await one.move('same', 3), await one.set('moved', 1), await one.move('moved', 3), await three.get('moved')]);
    say('DBSIZE', await Promise.all([one, two, three].map((c) => c.dbsize())));
    const c = await again({ db: 1 });
    say('SELECT', [await c.select(2), await c.get('same'), await c.select(3), await c.get('same')]);
    say('SELECT that is pipelined', await Promise.all([c.select(1), c.get('same'), c.select(3), c.get('same')]));
    await attempt('SELECT of none', c.call('SELECT', 99));
    say('still there', await c.get('same'));
    say('SWAPDB', [await c.swapdb(2, 3), await c.get('same'), await two.get('same')]);
    const w = await waiting(client, () => two.blpop('waiting', 5));
    say('not there, but here', [await three.rpush('waiting', 3), await clients[0].move('same', 1), await c.get('same')]);
    say('BLPOP', [await c.multi().select(2).rpush('waiting', '2').select(0).exec(), await w.result]);
    say('FLUSHDB', [await three.flushdb(), await Promise.all(clients.map(async (d) => await d.dbsize() > 0))]);
    for (const d of [c, ...clients]) d.disconnect();
  },

  async names(client, again, protocol) {
    const [c, other] = [await again({ connectionName: 'by-option' }), await again({ db: 2 })];
    say('a name by option', [await c.client('GETNAME'), await other.client('GETNAME')]);
    say('SETNAME', [await c.client('SETNAME', 'renamed'), await c.client('GETNAME')]);
    await attempt('a name with a space', c.client('SETNAME', 'two words'));
    const [mine, theirs] = [t.fieldsOf(await c.client('INFO')), t.fieldsOf(await other.client('INFO'))];
    say('INFO', mine.stable);
    say('INFO of another', theirs.stable);
    say('ID', [String(await c.client('ID')) === mine.id, String(await other.client('ID')) === theirs.id, mine.id === theirs.id]);
    say('addresses', [mine.addr === theirs.addr, mine.addr === `127.0.0.1:${c.stream.localPort}`]);
    const info = async (what, line) => say(`INFO ${what}`, t.fieldsOf(await line).stable);
    await c.watch('a', 'b');
    await info('under WATCH', c.client('INFO'));
    await info('in a transaction', c.multi().get('a').client('INFO').exec().then((got) => got[1][1]));
    say('NO-EVICT, NO-TOUCH', [await c.client('NO-EVICT', 'ON'), await c.client('NO-TOUCH', 'ON').catch((err) => err)]);
    await info('after NO-EVICT', c.client('INFO'));
    say('SETNAME to nothing', [await c.client('SETNAME', ''), await c.client('GETNAME')]);
    if (protocol === 3) {
      await c.client('TRACKING', 'ON', 'OPTIN', 'NOLOOP');
      await info('with TRACKING', c.client('INFO'));
    }
    c.disconnect();
    await other.multi().select(3).get('a').exec();
    await info('after SELECT in a transaction', other.client('INFO'));
    if (protocol === 3) {
      await other.subscribe('x', 'y');
      await other.psubscribe('p*');
      await info('of a subscriber', other.client('INFO'));
    }
    other.disconnect();
  },

  async errors(client) {
    await client.set('string', 'x');
    await attempt('WRONGTYPE', client.lpush('string', 1));
    await attempt('not an integer', client.incr('string'));
    await attempt('an unknown command', client.call('NOSUCHCOMMAND', 'a', 'b'));
    await attempt('too few arguments', client.call('GET'));
    await attempt('an unknown subcommand', client.client('NOSUCHTHING'));
    await attempt('a syntax error', client.set('a', 'b', 'NONSENSE'));
    await attempt('a bad expiry', client.set('a', 'b', 'EX', 0));
    await attempt('AUTH of nobody', client.call('AUTH', 'nobody', 'wrong'));
    await attempt('CONFIG SET of nothing', client.config('SET', 'nothing', 1));
    await attempt('DUMP that was tampered with', client.restore('dump', 0, 'nonsense'));
    say('and all is well', await client.get('string'));
  },
};

t.run(open, steps);
