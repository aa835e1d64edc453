// Drives the page in a headless browser, and says what does not work. It is for those who change the page; no test needs it.
//
//   redis-server --port 7000 --save '' &
//   redbouncer serve --upstream redis://127.0.0.1:7000 --listen 127.0.0.1:7001 &
//   go run ../leaks no-close-on-error 127.0.0.1:7001 200 &
//   redis-cli -p 7001 -r 200 -i 1 CLIENT SETNAME "<img/src=x/onerror=document.title=1>" &
//   npm install --prefix /tmp/drive playwright-core
//   NODE_PATH=/tmp/drive/node_modules node drive.js http://127.0.0.1:9121/ /usr/bin/chromium /tmp/drive
//
// The last argument is where the screenshots go.

const { chromium } = require("playwright-core");
const [url, executablePath, shots] = process.argv.slice(2);

function check(ok, what) {
  console.log(ok ? "ok  " : "FAIL", what);
  if (!ok) process.exitCode = 1;
}

async function drive(page) {
  const suspect = "tbody.suspect >> nth=0";
  const outcome = (text) => page.waitForFunction((t) => document.getElementById("outcome").textContent.includes(t), text);
  const state = (s) => page.waitForFunction((t) => document.getElementById("state").textContent === t, s);
  const confirm = () => page.click("#confirm-yes");

  await page.waitForSelector("tbody.suspect .badge", { timeout: 90000 });
  check((await page.locator("#sources > tbody").first().getAttribute("class")) === "suspect", "suspects are on top");
  check((await page.title()) === "redbouncer" && (await page.locator("#sources img").count()) === 0, "names of clients are text");

  await page.click("th:has-text('Source') button");
  const names = await page.locator("#sources > tbody:not(.suspect) .open").allTextContents();
  check(names.join() === [...names].sort((a, b) => a.localeCompare(b)).join(), "sources are sorted");

  await page.focus(`${suspect} >> .open`);
  await page.keyboard.press("Enter");
  await page.waitForSelector(`${suspect} >> .clients tbody tr`);
  await page.waitForTimeout(3000);
  check(await page.evaluate(() => document.activeElement.className === "open"), "the focus stays where it is");

  await page.click(`${suspect} >> .clients tbody tr >> nth=0 >> button`);
  check(await page.evaluate(() => document.activeElement.textContent === "Cancel"), "the dialog begins with Cancel");
  await confirm();
  await outcome("is closed.");
  await page.fill(`${suspect} >> .do input`, "addr each maxclients 1000");
  await page.keyboard.press("Enter");
  await confirm();
  await outcome("In force");
  await page.waitForSelector("#limits tr:has-text('addr each')");

  await page.click("[data-verb=pause]");
  await page.fill("#confirm-input", "60");
  await confirm();
  await state("paused");
  await page.click("[data-verb=resume]");
  await confirm();
  await state("serving");

  await page.fill("#filter", "matches nothing");
  check((await page.locator("#sources > tbody").count()) === 0, "the filter filters");
  await page.fill("#filter", "");
  await page.reload();
  await page.waitForSelector(".open[aria-expanded=true]");
  check((await page.getAttribute("th:has-text('Source')", "aria-sort")) === "ascending", "what was chosen outlives a reload");
}

(async () => {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
  const wrong = [];
  page.on("console", (m) => m.type() === "error" && wrong.push(m.text()));
  page.on("pageerror", (e) => wrong.push(String(e)));
  page.on("request", (r) => r.url().startsWith(url) || wrong.push(`asks ${r.url()}`));
  await page.goto(url);
  await drive(page);
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1440, 600, 380]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 900 });
      await page.waitForTimeout(1500);
      check(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `it fits into ${width} pixels`);
      await page.screenshot({ path: `${shots}/page-${width}-${colorScheme}.png`, fullPage: true });
    }
  }
  check(wrong.length === 0, `nothing is wrong on the browser's console: ${wrong.join("; ")}`);
  await browser.close();
})().catch((e) => { check(false, e.message); process.exit(1); });
