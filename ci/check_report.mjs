// Checks a report in a browser: accessibility, requests, speed, keyboard. Exits with 1 if a check fails.
//
//     npm install --no-save playwright-core axe-core     # beside a Chromium that is installed
//     node ci/check_report.mjs REPORT.html [FOLDER]      # screenshots go to FOLDER, if given
//
// CHROMIUM is the path of the browser (/usr/bin/chromium); NODE_PATH can name the folder of the two packages.
import { createRequire } from "node:module";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(join(process.cwd(), "x.cjs"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const [file, folder] = process.argv.slice(2);
if (!file) {
  console.error("usage: node ci/check_report.mjs REPORT.html [FOLDER]");
  process.exit(2);
}
const address = pathToFileURL(resolve(file)).href;
if (folder) mkdirSync(folder, { recursive: true });
const profile = mkdtempSync(join(tmpdir(), "report-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  bypassCSP: true, // because the page's own policy keeps axe out
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
const wrong = [];
const seen = (condition, sentence) => { if (!condition) wrong.push(sentence); };

for (const [device, width, height] of [["desktop", 1280, 800], ["phone", 390, 844]]) {
  for (const scheme of ["light", "dark"]) {
    const name = `${device}-${scheme}`;
    const page = await browser.newPage();
    page.setDefaultTimeout(120_000);
    const requests = [];
    page.on("request", (request) => requests.push(request.url()));
    page.on("pageerror", (error) => wrong.push(`${name}: ${error}`));
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme: scheme });
    await page.goto(address, { waitUntil: "load" });
    const timing = await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
      const navigation = performance.getEntriesByType("navigation")[0];
      done({ loaded: navigation.loadEventEnd, painted: performance.getEntriesByName("first-contentful-paint")[0]?.startTime });
    }))));
    console.log(`${name}: loaded in ${timing.loaded.toFixed(0)} ms, painted after ${timing.painted?.toFixed(0)} ms`);
    seen(timing.loaded < 1000, `${name}: loading took ${timing.loaded.toFixed(0)} ms, over a second`);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    seen(wide <= 0, `${name}: the page is ${wide} px wider than the screen`);
    if (folder) {
      await page.screenshot({ path: join(folder, `${name}-first.png`) });
      await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
    }

    // By keyboard: the first stop is the skip link; a summary opens with Enter; a link of the matrix opens its audit.
    await page.keyboard.press("Tab");
    seen(await page.evaluate(() => document.activeElement?.className === "skip"), `${name}: the first stop of Tab is not the skip link`);
    const card = page.locator("details.card:not([open]) > summary").first();
    if (await card.count()) {
      await card.focus();
      await page.keyboard.press("Enter");
      seen(await page.evaluate(() => document.activeElement.parentElement.open), `${name}: a section does not open by keyboard`);
    }
    const link = page.locator(".matrix td a").last();
    if (await link.count()) {
      const target = (await link.getAttribute("href")).slice(1);
      await link.focus();
      await page.keyboard.press("Enter");
      seen(await page.evaluate((id) => document.getElementById(id).closest("details").open, target), `${name}: a link does not open its audit`);
    }

    // Accessibility, with everything opened.
    await page.evaluate(() => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
    await page.addScriptTag({ content: axe });
    const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
    for (const { impact, id, help, nodes } of found.violations) {
      console.log(`${name}: axe ${impact} ${id}: ${help} (${nodes.length}), e.g. ${nodes[0].html.slice(0, 160)}`);
      seen(!["serious", "critical"].includes(impact), `${name}: axe finds ${id} (${impact}), ${nodes.length} times`);
    }
    const outside = requests.filter((url) => url !== address && !url.startsWith("data:"));
    seen(outside.length === 0, `${name}: the page requests ${outside.slice(0, 3).join(", ")}`);
    await page.close();
  }
}
await browser.close();
rmSync(profile, { recursive: true, force: true });
for (const sentence of wrong) console.error(sentence);
console.log(wrong.length ? `${wrong.length} checks failed` : "all checks passed");
process.exit(wrong.length ? 1 : 0);
