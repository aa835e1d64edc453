// What the two scripts for Node have in common: running steps, and comparing.
'use strict';

const { isDeepStrictEqual } = require('node:util');

function check(got, want, what) {
  if (!isDeepStrictEqual(got, want)) {
    const show = (v) => String(JSON.stringify(v)).slice(0, 200);
    throw new Error(`${what}: got ${show(got)}, want ${show(want)}`);
  }
}

// run goes through the steps with a client that open(protocol, options) makes, and ends the process.
async function run(name, open, steps) {
  // A step that hangs is a failure too.
  setTimeout(() => { console.log('FAIL: it takes more than a minute'); process.exit(1); }, 60_000).unref();
  console.log(name);
  let at = 'connecting';
  try {
    for (const protocol of [2, 3]) {
      const again = (options) => open(protocol, options ?? {});
      const client = await again();
      for (const [what, step] of Object.entries(steps)) {
        at = `${what} (RESP${protocol})`;
        await step(client, again);
        console.log(`ok ${at}`);
      }
    }
    process.exit(0);
  } catch (err) {
    console.log(`FAIL ${at}: ${err.stack}`);
    process.exit(1);
  }
}

const values = () => [
  Buffer.alloc(0), Buffer.from('\r\n'), require('node:crypto').randomBytes(1 << 20),
  Buffer.alloc(64 << 20, '0123456789abcde'),
];

module.exports = { check, run, values };
