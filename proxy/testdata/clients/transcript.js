// What the two scripts for Node that write transcripts have in common. See README.md.
'use strict';

const crypto = require('node:crypto');

const everyByte = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
const megabyte = Buffer.concat(Array(4096).fill(everyByte));
const bytes = { 'every byte': everyByte, empty: Buffer.alloc(0), '1 MB': megabyte, 'line ends': Buffer.from('\r\n$-1\r\n*') };

function show(v) {
  if (typeof v === 'string' || Buffer.isBuffer(v)) {
    const kind = typeof v === 'string' ? '' : 'b';
    if (v.length <= 80) return kind + JSON.stringify(v.toString('latin1'));
    return `<${v.length} ${kind || 'characters'} ${crypto.createHash('sha1').update(v).digest('hex')}>`;
  }
  if (v instanceof Error) return `${v.name}: ${v.message}`;
  if (Array.isArray(v)) return `[${v.map(show).join(', ')}]`;
  if (v instanceof Set || v instanceof Map) return show([...v]);
  if (v !== null && typeof v === 'object') {
    return `{${Object.keys(v).sort().map((k) => `${show(k)}: ${show(v[k])}`).join(', ')}}`;
  }
  return String(v);
}

// digest stands for what is too long to be written down.
const digest = (v) => show(Buffer.from(show(v)));

const say = (what, value) => console.log(`${what}: ${show(value)}`);

// attempt writes down what a promise resolves to, or is rejected with.
async function attempt(what, promise) {
  say(what, await promise.catch((err) => err));
}

async function until(what, condition) {
  for (const deadline = Date.now() + 5000; !(await condition());) {
    if (Date.now() > deadline) throw new Error(`in vain: ${what}`);
    await new Promise((r) => setTimeout(r, 2));
  }
}

// waiting makes a call that waits, and resolves to its promise, wrapped, once it has reached the server.
async function waiting(info, call) {
  const blocked = async () => Number(/blocked_clients:(\d+)/.exec(await info())[1]);
  const was = await blocked();
  const result = call().catch((err) => err);
  await until('a client blocks', async () => await blocked() > was);
  return { result };
}

// Inbox collects messages, which come at any time, for take.
class Inbox {
  got = [];

  async take(n) {
    await until(`${n} messages`, () => this.got.length >= n);
    return this.got.splice(0, n);
  }
}

const library = `#!lua name=mine
redis.register_function('put', function(keys, args) return redis.call('set', keys[1], args[1]) end)
redis.register_function{function_name='look', callback=function(keys, args) return redis.call('get', keys[1]) end,
  flags={'no-writes'}}
`;

// fieldsOf picks what is the same at every run from a line of CLIENT INFO.
function fieldsOf(line) {
  const all = Object.fromEntries(line.trim().split(' ').map((f) => f.split(/=(.*)/s).slice(0, 2)));
  // Valkey says 0 for ever after a connection's first transaction.
  if (all.multi === '0') all.multi = '-1';
  const stable = ['flags', 'db', 'sub', 'psub', 'ssub', 'multi', 'watch', 'redir', 'user', 'resp', 'lib-name', 'lib-ver',
    'name', 'cmd'];
  return { ...all, stable: Object.fromEntries(stable.filter((k) => k in all).map((k) => [k, all[k]])) };
}

// run goes through the steps, in RESP2 and RESP3, with a client that open(protocol, options) makes, and ends the
// process. Steps named on the command line are left out.
async function run(open, steps) {
  setTimeout(() => { console.error('it takes more than 20 s'); process.exit(1); }, 20_000).unref();
  const leftOut = process.argv.slice(3);
  try {
    for (const protocol of [2, 3]) {
      const again = (options) => open(protocol, options ?? {});
      const client = await again();
      await client.raw('FLUSHALL');
      for (const [name, step] of Object.entries(steps)) {
        if (leftOut.includes(name)) continue;
        console.log(`# ${name}, RESP${protocol}`);
        await step(client, again, protocol);
      }
      client.end();
    }
    process.exit(0);
  } catch (err) {
    console.error(err.stack);
    process.exit(1);
  }
}

module.exports = { Inbox, attempt, bytes, digest, everyByte, fieldsOf, library, megabyte, run, say, show, until, waiting };
