// Writes down what node-redis is told, through the address given, for comparison. See README.md.
'use strict';

const { BasicClientSideCache, RESP_TYPES, createClient, createClientPool, defineScript, WatchError } = require('redis');
const t = require('./transcript.js');
const { attempt, everyByte, megabyte, say } = t;

const mine = defineScript({
  SCRIPT: "return {redis.call('incrby', KEYS[1], ARGV[1]), ARGV[2]}",
  NUMBER_OF_KEYS: 1,
  parseCommand(parser, key, n, arg) { parser.pushKey(key); parser.push(String(n), arg); },
  transformReply: (reply) => reply,
});

// No reconnects: they would hide what is looked for here.
const optionsOf = (RESP, options) => ({
  url: `redis://${process.argv[2]}`, RESP, scripts: { mine }, ...options, socket: { reconnectStrategy: false },
});

async function open(RESP, options) {
  const client = createClient(optionsOf(RESP, options));
  client.on('error', (err) => { throw err; });
  await client.connect();
  return Object.assign(client, { raw: (...args) => client.sendCommand(args), end: client.destroy });
}

const inBytes = (client) => client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });

const waiting = (client, call) => t.waiting(() => client.info('clients'), call);

// listenerOf gives everything that is published to it to an inbox.
function listenerOf(name) {
  const inbox = new t.Inbox();
  return { inbox, hear: (message, channel) => inbox.got.push([name, channel, message]) };
}

async function all(parts) {
  const got = [];
  for await (const part of parts) got.push(...part);
  return got;
}

const sorted = (list) => [...new Set(list.map(t.show))].sort();

const steps = {
  async pipelines(client) {
    const got = [];
    for (let i = 0; i < 1000; i++) got.push(client.set(`p${i}`, i), client.incr(`p${i}`), client.get(`p${i}`));
    say('1,000 times SET, INCR, GET', t.digest(await Promise.all(got)));
    const p = client.multi().set('a', 'x').get('a').lPush('l', ['1', '2']).hSet('h', 'f', 1).hGetAll('h');
    say('a pipeline', await p.execAsPipeline());
    const mixed = await Promise.allSettled([client.incr('a'), client.get('a'), client.lPop('a'), client.raw('SELECT', '1'),
      client.get('a'), client.raw('SELECT', '0'), client.blPop('none', 0.01), client.get('a')]);
    say('errors in the middle', mixed.map((m) => (m.status === 'fulfilled' ? m.value : m.reason)));
  },

  async transactions(client, again, RESP) {
    say('MULTI', await client.multi().set('t', 1).incr('t').get('t').hSet('t:h', 'f', 'v').hGetAll('t:h').exec());
    await attempt('errors of commands', client.multi().set('t', 'x').incr('t').get('t').exec()
      .catch((err) => [err, err.replies]));
    await attempt('EXECABORT', client.multi().addCommand(['NOSUCHCOMMAND']).set('never', 1).exec());
    say('left of it', await client.exists('never'));

    const c = await again();
    await c.watch('w');
    await client.set('w', 'theirs');
    await attempt('EXEC after a conflict', c.multi().set('w', 'mine').exec());
    await c.watch('w');
    say('EXEC of the retry', await c.multi().set('w', 'mine').get('w').exec());
    await c.watch('w');
    await c.unwatch();
    await client.set('w', 'theirs');
    say('EXEC after UNWATCH', await c.multi().get('w').exec());
    const pool = createClientPool(optionsOf(RESP), { minimum: 1, maximum: 4 });
    await pool.connect();
    const count = async (one) => {
      for (;;) {
        await one.watch('count');
        const n = Number(await one.get('count'));
        try {
          return await one.multi().set('count', n + 1).exec();
        } catch (err) {
          if (!(err instanceof WatchError)) throw err;
        }
      }
    };
    await Promise.all(Array.from({ length: 40 }, () => pool.execute(count)));
    say('a pool of 4 counted to', await pool.get('count'));
    pool.destroy();

    say('MULTI by itself', [await c.raw('MULTI'), await c.raw('SET', 'q', '1'), await client.get('q'), await c.raw('EXEC')]);
    say('DISCARD', [await c.raw('MULTI'), await c.raw('DEL', 'q'), await c.raw('DISCARD'), await c.get('q')]);
    await attempt('EXEC without MULTI', c.raw('EXEC'));
    c.destroy();
  },

  async scripts(client) {
    const run = (script, keys, args) => client.eval(script, { keys: keys ?? [], arguments: args ?? [] });
    say('EVAL', await run('return {KEYS[1], ARGV[1], 7, {1, {2}}, false}', ['k'], ['v']));
    say('a status', await run("return redis.status_reply('FINE')"));
    say('types of RESP3', await run(
      "redis.setresp(3) redis.call('hset', KEYS[1], 'f', 'v') return {redis.call('hgetall', KEYS[1]), {double=1.5}, true}", ['h3']));
    await attempt('an error of its own', run("return redis.error_reply('MINE it is')"));
    await attempt('an error of a command', run("redis.call('set', 's', 'x') return redis.call('incr', 's')"));
    await attempt('an error of the compiler', run('this is no Lua'));
    await attempt('EVALSHA of nothing', client.evalSha('f'.repeat(40)));
    say('EVALSHA that falls back', [await client.mine('s:n', 1, 'x'), await inBytes(client).mine('s:n', 2, everyByte)]);
    say('SCRIPT FLUSH', await client.scriptFlush());
    say('falls back again', await client.mine('s:n', 3, 'x'));
    await client.scriptFlush();
    say('in a transaction', await client.multi().mine('s:n', 5, 'x').get('s:n').exec());
    say('FUNCTION LOAD', await client.functionLoad(t.library));
    say('FCALL', [await client.fCall('put', { keys: ['f'], arguments: [everyByte] }),
      await inBytes(client).fCallRo('look', { keys: ['f'] })]);
    await attempt('FCALL_RO that writes', client.fCallRo('put', { keys: ['f'], arguments: ['1'] }));
    await attempt('FCALL of nothing', client.fCall('nothing', {}));
    await attempt('FUNCTION LOAD again', client.functionLoad(t.library));
    say('FUNCTION LIST', await client.functionList());
    say('FUNCTION DELETE', await client.functionDelete('mine'));
    const script = "redis.call('set', KEYS[1], ARGV[1]) return ARGV[1]";
    say('a megabyte', await inBytes(client).eval(script, { keys: [everyByte], arguments: [megabyte] }));
  },

  async streams(client, again) {
    const c = inBytes(await again());
    const read = (who, id, options) => c.xReadGroup('g', who, { key: 'st', id }, options);
    await attempt('XGROUP CREATE of nothing', client.xGroupCreate('st', 'g', '0'));
    say('XGROUP CREATE', await client.xGroupCreate('st', 'g', '0', { MKSTREAM: true }));
    await attempt('XGROUP CREATE again', client.xGroupCreate('st', 'g', '0'));
    for (let i = 1; i <= 5; i++) say('XADD', await client.xAdd('st', `1-${i}`, { n: String(i), bytes: everyByte }));
    await attempt('XADD of an old id', client.xAdd('st', '1-1', { n: '0' }));
    say('alice reads', await read('alice', '>', { COUNT: 2 }));
    say('bob reads', await read('bob', '>', { COUNT: 2, BLOCK: 50 }));
    say("alice's history", await read('alice', '0'));
    say('XACK', await client.xAck('st', 'g', ['1-1', '1-3', '9-9']));
    say("alice's history after XACK", await read('alice', '0'));
    say('XPENDING', await client.xPending('st', 'g'));
    say('the rest', await read('alice', '>', { BLOCK: 50 }));
    say('BLOCK in vain', await read('alice', '>', { BLOCK: 50 }));
    let w = await waiting(client, () => read('alice', '>', { BLOCK: 5000 }));
    await client.xAdd('st', '2-1', { from: 'another' });
    say('BLOCK until XADD', await w.result);
    say('XAUTOCLAIM', await client.xAutoClaim('st', 'g', 'carol', 0, '0-0', { COUNT: 2 }));
    say('XAUTOCLAIM of the rest', await client.xAutoClaimJustId('st', 'g', 'carol', 0, '1-5'));
    say('XCLAIM', await client.xClaimJustId('st', 'g', 'dave', 0, '1-2'));
    const pending = await client.xPendingRange('st', 'g', '-', '+', 10);
    say('pending', pending.map((p) => [p.id, p.consumer, p.deliveriesCounter]));
    w = await waiting(client, () => c.xRead({ key: 'st', id: '$' }, { BLOCK: 5000 }));
    await client.xAdd('st', '3-1', { n: '9' });
    say('XREAD BLOCK until XADD', await w.result);
    say('all is read', await read('alice', '>'));
    w = await waiting(client, () => read('alice', '>', { BLOCK: 5000 }));
    say('XGROUP DESTROY', await client.xGroupDestroy('st', 'g'));
    say('BLOCK until XGROUP DESTROY', await w.result);
    c.destroy();
  },

  async pubsub(client, again) {
    const [a, b, c] = [await again(), await again(), await again()];
    const [byA, byB, byC] = ['a', 'b', 'c'].map(listenerOf);
    const [news, pattern] = [listenerOf('a, as text'), listenerOf('*s')];
    await a.subscribe(['news', everyByte.toString()], byA.hear, true);
    await a.subscribe('news', news.hear);
    await b.subscribe('news', byB.hear, true);
    await b.pSubscribe('n*', byB.hear, true);
    await b.pSubscribe('*s', pattern.hear, true);
    await c.sSubscribe(['shard', 'news'], byC.hear, true);
    await c.pSubscribe('[x]*', byC.hear, true);
    const sent = [];
    for (const m of ['', 'one', everyByte, megabyte]) sent.push(await client.publish('news', m));
    say('PUBLISH to several', sent);
    say('PUBLISH to others', [await client.publish(everyByte.toString(), 'bytes'), await client.publish('x1', 'x'),
      await client.publish('alone', 'is nobody')]);
    say('SPUBLISH', [await client.sPublish('shard', everyByte), await client.sPublish('news', 's')]);
    say('a receives', [await byA.inbox.take(5), await news.inbox.take(4)]);
    say('b receives', [await byB.inbox.take(8), await pattern.inbox.take(4)]);
    say('c receives', await byC.inbox.take(3));
    say('PUBSUB NUMSUB', await client.pubSubNumSub(['news', 'none']));
    say('PUBSUB NUMPAT', await client.pubSubNumPat());
    say('PUBSUB SHARDCHANNELS', (await client.pubSubShardChannels()).sort());
    await a.unsubscribe('news', news.hear);
    await b.pUnsubscribe('*s');
    await c.sUnsubscribe('shard');
    say('PUBLISH to several', await client.publish('news', 'two'));
    say('SPUBLISH to nobody', await client.sPublish('shard', 'two'));
    say('they receive less', [await byA.inbox.take(1), await byB.inbox.take(2)]);
    say('PING of a subscriber', [await a.ping(), await b.ping()]);
    await attempt('GET of a subscriber', a.get('k'));
    await a.unsubscribe();
    await b.unsubscribe();
    await b.pUnsubscribe();
    say('GET of those who were', [await a.get('k'), await b.get('k')]);
    say('PUBLISH to nobody', await client.publish('news', 'three'));
    say('nothing else has come', [byA, byB, byC, news, pattern].map(({ inbox }) => inbox.got));
    say('PUBLISH in a transaction', await client.multi().publish('news', '1').get('k').exec());
    for (const sub of [a, b, c]) sub.destroy();
  },

  async blocking(client, again) {
    const c = await again();
    let w = await waiting(client, () => inBytes(c).blPop(['q1', 'q2'], 5));
    await client.rPush('q2', everyByte);
    say('BLPOP', await w.result);
    w = await waiting(client, () => c.blMove('q1', 'q3', 'LEFT', 'RIGHT', 5));
    await client.rPush('q1', 'moved');
    say('BLMOVE', [await w.result, await client.lRange('q3', 0, -1)]);
    w = await waiting(client, () => c.bzPopMin(['z1', 'z2'], 5));
    await client.zAdd('z2', [{ score: 1.5, value: 'a' }, { score: 2, value: 'b' }]);
    say('BZPOPMIN', [await w.result, await c.bzPopMin('z2', 1)]);
    w = await waiting(client, () => c.brPop('q4', 5));
    await client.multi().lPush('q4', ['1', '2', '3']).lPop('q4').exec();
    say('BRPOP from a transaction', await w.result);
    const start = Date.now();
    say('in vain', [await c.blPop('none', 0.1), await c.blMove('none', 'q3', 'LEFT', 'RIGHT', 0.1),
      await c.bzPopMin('none', 0.1), await c.blmPop(0.1, 'none', 'LEFT')]);
    say('they have waited', Date.now() - start >= 390);
    await client.set('q5', 'a string');
    await attempt('BLPOP of the wrong type', c.blPop('q5', 1));
    await attempt('BLPOP with a bad timeout', c.raw('BLPOP', 'q1', 'soon'));
    say('BLPOP in a transaction', await c.multi().blPop('none', 0).exec());
    // What a client pipelines behind a command that waits is answered after it.
    w = await waiting(client, () => Promise.all([c.blPop('q6', 5), c.get('q5'), c.incr('q7')]));
    await client.rPush('q6', 'x');
    say('a pipeline behind BLPOP', await w.result);
    c.destroy();
  },

  async tracking(client, again, RESP) {
    if (RESP !== 3) return;
    const cache = new BasicClientSideCache({ ttl: 0, maxEntries: 100 });
    const inbox = new t.Inbox();
    cache.on('invalidate', (key) => inbox.got.push(key));
    const c = await again({ clientSideCache: cache });
    const stats = () => { const { hitCount, missCount } = cache.stats(); return { hitCount, missCount, size: cache.size() }; };
    say('read', [await c.get('cached'), await c.get('cached'), await c.mGet(['cached:1', 'cached:2']), stats()]);
    await client.set('cached', '1');
    say('invalidated', [await inbox.take(1), stats()]);
    say('read again', [await c.get('cached'), await c.get('cached'), stats()]);
    await client.mSet({ 'cached:2': '1', 'never read': '1' });
    say('one of two', [await inbox.take(1), await c.mGet(['cached:1', 'cached:2']), stats()]);
    say('its own', [await c.get('own'), await c.set('own', '1'), await inbox.take(1), await c.get('own')]);
    say('in a transaction', [await c.multi().set('own', '2').get('own').exec(), await inbox.take(1), await c.get('own')]);
    await client.hSet('hash', 'f', 'v');
    say('a hash', [await c.hGetAll('hash'), await c.hGetAll('hash'), await client.hSet('hash', 'f', 'w'), await inbox.take(1),
      await c.hGetAll('hash')]);
    await client.set('expires', '1', { PX: 20 });
    say('what expires', [await c.get('expires'), await inbox.take(1), await c.get('expires')]);
    const w = await waiting(client, () => c.blPop('tq', 5));
    await client.set('own', '3');
    say('while it blocks', await inbox.take(1));
    await client.rPush('tq', '1');
    say('and then the reply', [await w.result, await c.get('own')]);
    await client.flushDb();
    say('FLUSHDB', [await inbox.take(1), await c.get('own'), stats()]);
    await new Promise((r) => setTimeout(r, 50));
    say('more after FLUSHDB', inbox.got.splice(0));
    c.destroy();

    const raw = await again({ emitInvalidate: true });
    raw.on('invalidate', (key) => inbox.got.push(key === null ? key : String(key)));
    say('as events', [await raw.get('user:3'), await client.set('user:3', '1'), await inbox.take(1)]);
    say('BCAST', [await raw.clientTracking(false), await raw.clientTracking(true, { BCAST: true, PREFIX: ['user:', 'order:'],
      NOLOOP: true }), await raw.clientTrackingInfo()]);
    await raw.set('user:1', '1');
    await client.mSet({ 'user:2': '1', 'order:1': '1', 'no prefix': '1' });
    say('by prefix', (await inbox.take(2)).sort());
    say('OFF', [await raw.clientTracking(false), await client.set('user:1', '2'), await raw.get('user:1'), inbox.got]);
    raw.destroy();
  },

  // In RESP2, invalidations go to a subscriber.
  async redirect(client, again) {
    const [listener, c] = [await again({ RESP: 2 }), await again()];
    const id = await listener.clientId();
    const { inbox, hear } = listenerOf('listener');
    await listener.subscribe('__redis__:invalidate', hear, true);
    say('TRACKING', [await c.clientTracking(true, { REDIRECT: id }), await c.clientGetRedir() === id]);
    say('read', [await c.get('cached'), await c.mGet(['cached:1', 'cached:2'])]);
    await client.set('cached', '1');
    await client.set('cached', '2');
    await client.mSet({ 'cached:2': '1', 'never read': '1' });
    say('invalidated', await inbox.take(2));
    say('BCAST', [await c.clientTracking(false),
      await c.clientTracking(true, { REDIRECT: id, BCAST: true, PREFIX: 'user:', NOLOOP: true })]);
    await c.set('user:2', '1');
    await client.set('user:1', '1');
    say('by prefix', await inbox.take(1));
    await attempt('a redirection to nobody', c.clientTracking(true, { REDIRECT: 2 ** 40 }));
    say('nothing else has come', inbox.got);
    c.destroy();
    listener.destroy();
  },

  async scanning(client) {
    const filled = [];
    for (let i = 0; i < 2000; i++) {
      filled.push(client.set(`scan:${i}`, i), client.hSet('scan-h', `f${i}`, i), client.sAdd('scan-s', `m${i}`),
        client.zAdd('scan-z', { score: i, value: `m${i}` }));
    }
    await Promise.all(filled);
    say('SCAN', t.digest(sorted(await all(client.scanIterator({ MATCH: 'scan:*', COUNT: 100 })))));
    say('SCAN of a type', sorted(await all(client.scanIterator({ COUNT: 500, TYPE: 'zset' }))));
    say('HSCAN', t.digest(sorted(await all(client.hScanIterator('scan-h', { COUNT: 200 })))));
    say('SSCAN', t.digest(sorted(await all(client.sScanIterator('scan-s', { MATCH: 'm1*', COUNT: 200 })))));
    say('ZSCAN', t.digest(sorted(await all(client.zScanIterator('scan-z', { COUNT: 200 })))));
    say('SCAN of nothing', await all(client.scanIterator({ MATCH: 'nothing*', COUNT: 5000 })));
  },

  async binary(client) {
    const c = inBytes(client);
    for (const [name, v] of Object.entries(t.bytes)) {
      say(`a value: ${name}`, [await c.set('b', v), await c.get('b'), await c.append('b', v), await c.getRange('b', 250, 260)]);
      say(`a key: ${name}`, [await c.set(v, 'x'), await c.get(v), await c.del(v), await c.get(v)]);
      say(`a field: ${name}`, [await c.hSet('bh', v, v), await c.hKeys('bh'), await c.hVals('bh'), await c.del('bh')]);
      say(`ECHO: ${name}`, await c.echo(v));
      say(`a script's: ${name}`, await c.eval('return {KEYS[1], ARGV[1], #ARGV[1]}', { keys: [v], arguments: [v] }));
      say(`a transaction's: ${name}`, await c.multi().set(v, v).get(v).del(v).exec());
    }
    const many = Array.from({ length: 1000 }, (_, i) => Buffer.from(`m${i}\0`));
    say('1,000 arguments', await c.mSet(many.map((k) => [k, everyByte])));
    say('1,000 values', t.digest(await c.mGet(many)));
  },

  async databases(client, again) {
    const clients = [];
    for (let database = 0; database < 4; database++) {
      const c = await again({ database });
      clients.push(c);
      await c.flushDb();
      await c.set('same', `of ${database}`);
    }
    say('each its own', await Promise.all(clients.map((c) => c.get('same'))));
    const [, one, two, three] = clients;
    say('MOVE', [await one.move('same', 3), await one.set('moved', '1'), await one.move('moved', 3), await three.get('moved')]);
    say('DBSIZE', await Promise.all([one, two, three].map((c) => c.dbSize())));
    const c = await again({ database: 1 });
    say('SELECT', [await c.select(2), await c.get('same'), await c.select(3), await c.get('same')]);
    say('SELECT that is pipelined', await Promise.all([c.select(1), c.get('same'), c.select(3), c.get('same')]));
    await attempt('SELECT of none', c.select(99));
    say('still there', await c.get('same'));
    say('SWAPDB', [await c.swapDb(2, 3), await c.get('same'), await two.get('same')]);
    const w = await waiting(client, () => two.blPop('waiting', 5));
    say('not there', await three.rPush('waiting', '3'));
    say('but here', [await c.multi().select(2).rPush('waiting', '2').select(0).exec(), await w.result]);
    say('FLUSHDB', [await three.flushDb(), await Promise.all(clients.map(async (d) => await d.dbSize() > 0))]);
    for (const d of [c, ...clients]) d.destroy();
  },

  async names(client, again, RESP) {
    const [c, other] = [await again({ name: 'by-option', clientInfoTag: 'tag' }), await again({ database: 2 })];
    say('a name by option', [await c.clientGetName(), await other.clientGetName()]);
    say('SETNAME', [await c.clientSetName('renamed'), await c.clientGetName()]);
    await attempt('a name with a space', c.clientSetName('two words'));
    const [mine, theirs] = [t.fieldsOf(await c.raw('CLIENT', 'INFO')), t.fieldsOf(await other.raw('CLIENT', 'INFO'))];
    say('INFO', mine.stable);
    say('INFO of another', theirs.stable);
    say('ID', [String(await c.clientId()) === mine.id, String(await other.clientId()) === theirs.id, mine.id === theirs.id]);
    say('HELLO', String((await c.hello()).id) === mine.id);
    say('addresses', mine.addr === theirs.addr);
    say('NO-EVICT', await c.clientNoEvict(true));
    await attempt('NO-TOUCH', c.clientNoTouch(true));
    say('SETNAME to nothing', [await c.clientSetName(''), await c.clientGetName()]);
    const info = async (what, line) => say(`INFO ${what}`, t.fieldsOf(await line).stable);
    await info('after NO-EVICT', c.raw('CLIENT', 'INFO'));
    await info('in a transaction', c.multi().get('a').addCommand(['CLIENT', 'INFO']).exec().then((got) => got[1]));
    await c.multi().select(3).get('a').exec();
    await info('after SELECT in a transaction', c.raw('CLIENT', 'INFO'));
    if (RESP === 3) {
      await other.subscribe(['x', 'y'], () => {});
      await info('of a subscriber', other.raw('CLIENT', 'INFO'));
    }
    c.destroy();
    other.destroy();
  },

  async errors(client) {
    await client.set('string', 'x');
    await attempt('WRONGTYPE', client.lPush('string', '1'));
    await attempt('not an integer', client.incr('string'));
    await attempt('an unknown command', client.raw('NOSUCHCOMMAND', 'a', 'b'));
    await attempt('too few arguments', client.raw('GET'));
    await attempt('an unknown subcommand', client.raw('CLIENT', 'NOSUCHTHING'));
    await attempt('a syntax error', client.raw('SET', 'a', 'b', 'NONSENSE'));
    await attempt('a bad expiry', client.set('a', 'b', { EX: 0 }));
    await attempt('AUTH of nobody', client.raw('AUTH', 'nobody', 'wrong'));
    await attempt('CONFIG SET of nothing', client.configSet('nothing', '1'));
    await attempt('DUMP that was tampered with', client.restore('dump', 0, 'nonsense'));
    say('and all is well', await client.get('string'));
  },
};

t.run(open, steps);
