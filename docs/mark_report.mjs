// Draws report_marked.png: the top of a report and its first opened audit, with numbers at their parts.
//
//     npm install --no-save playwright-core     # beside a Chromium that is installed
//     node docs/mark_report.mjs REPORT.html docs/report_marked.png
//
// CHROMIUM is the path of the browser (/usr/bin/chromium); NODE_PATH can name the folder of the package.
import { createRequire } from "node:module";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const { chromium } = createRequire(join(process.cwd(), "x.cjs"))("playwright-core");
const [file, target] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), "marks-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  viewport: { width: 900, height: 1200 },
  colorScheme: "light",
  args: ["--no-sandbox", "--disable-gpu"],
});
const page = await browser.newPage();
await page.goto(pathToFileURL(resolve(file)).href, { waitUntil: "load" });
// What each number is at, in their order.
const parts = [
  ".headline", ".matrix td a", ".conclusion h3", "#sure",
  "details.card[open] > summary", "details.card[open] p[id]", "details.card[open] ul",
  "details.card[open] figure:nth-of-type(1) figcaption", "details.card[open] figure:nth-of-type(2) figcaption",
  "details.card[open] details.more summary", "details.card[open] pre",
];
const bottom = await page.evaluate((selectors) => {
  // What lies between the top of the page and the first opened audit is left out.
  const open = document.querySelector("details.card[open]");
  document.body.style.paddingLeft = "30px"; // for the numbers
  document.querySelectorAll("details.card:not([open]), section[aria-labelledby=heuristics]").forEach((each) => each.remove());
  document.querySelectorAll("section[aria-labelledby=planted]").forEach((each) => each.remove());
  selectors.forEach((selector, i) => {
    const found = document.querySelector(selector);
    if (!found) throw new Error(`nothing on the page is ${selector}`);
    const place = found.getBoundingClientRect();
    const mark = document.createElement("b");
    mark.textContent = i + 1;
    mark.style.cssText = `position:absolute;left:${Math.max(2, place.left + scrollX - 24)}px;top:${place.top + scrollY - 1}px;width:21px;
      height:21px;border-radius:50%;background:#8f2d6b;color:#fff;font:bold 12px/21px sans-serif;text-align:center`;
    document.body.append(mark);
  });
  return open.getBoundingClientRect().bottom + scrollY + 16;
}, parts);
await page.screenshot({ path: target, fullPage: true, clip: { x: 0, y: 0, width: 900, height: bottom } });
await browser.close();
rmSync(profile, { recursive: true, force: true });
