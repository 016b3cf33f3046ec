// Checks pages of the documentation site in a browser: accessibility, requests, width. Exits with 1 if a check fails.
//
//     npm install --no-save playwright-core axe-core     # beside a Chromium that is installed
//     node ci/check_site.mjs build/site [FOLDER]         # screenshots go to FOLDER, if given
//
// CHROMIUM is the path of the browser (/usr/bin/chromium); NODE_PATH can name the folder of the two packages.
import { createRequire } from "node:module";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(join(process.cwd(), "x.cjs"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const [site, folder] = process.argv.slice(2);
if (!site) {
  console.error("usage: node ci/check_site.mjs SITE [FOLDER]");
  process.exit(2);
}
if (folder) mkdirSync(folder, { recursive: true });
// One of each kind: the first page, steps, ideas with a drawing, pictures, wide tables, questions, docstrings, search.
const pages = ["index", "docs/tutorial", "docs/concepts", "docs/report", "docs/methods", "docs/results",
  "docs/glossary", "docs/faq",
  "ci/site/api", "search"];
const profile = mkdtempSync(join(tmpdir(), "site-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  args: ["--no-sandbox", "--disable-gpu"],
});
const wrong = [];

for (const each of pages) {
  for (const width of [1280, 360]) {
    for (const scheme of ["light", "dark"]) {
      const name = `${basename(each)}-${width}-${scheme}`;
      const page = await browser.newPage();
      page.on("request", (request) => /^(file|data):/.test(request.url()) || wrong.push(`${name} requests ${request.url()}`));
      page.on("pageerror", (error) => wrong.push(`${name}: ${error}`));
      await page.setViewportSize({ width, height: 900 });
      await page.emulateMedia({ colorScheme: scheme });
      await page.goto(pathToFileURL(resolve(site, `${each}.html`)).href, { waitUntil: "load" });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (wide > 0) wrong.push(`${name}: the page is ${wide} px wider than the screen`);
      if (folder) await page.screenshot({ path: join(folder, `${name}.png`) });
      await page.addScriptTag({ content: axe });
      const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
      for (const { impact, id, help, nodes } of found.violations) {
        const text = `${name}: ${impact}: ${help} (${id}), ${nodes.length} times, first ${nodes[0].target}`;
        if (["serious", "critical"].includes(impact)) wrong.push(text);
        else console.log(text);
      }
      await page.close();
    }
  }
}
await browser.close();
rmSync(profile, { recursive: true, force: true });
console.log(wrong.length ? wrong.join("\n") : "nothing is wrong");
process.exit(wrong.length ? 1 : 0);
