// Headless Chromium and ComfyUI's page in it, ready for use.
import { createRequire } from "node:module";

const require = createRequire(process.env.PLAYWRIGHT_FROM + "/");
const { chromium } = require("playwright-core");

export function launched() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
}

// A page of a client of its own.  What it says on the console is appended to `problems`: errors, and what is of this
// pack or comes from its files.
export async function newPage(browser, viewport, problems) {
  const page = await (await browser.newContext({ viewport })).newPage();
  page.on("console", (message) => {
    const { url } = message.location();
    const ours = /scedit/i.test(`${message.text()} ${url}`);
    if (message.type() === "error" || (ours && message.type() === "warning"))
      problems.push(`${message.text()}${ours ? ` (${url})` : ""}`);
  });
  page.on("pageerror", (error) => problems.push(String(error.stack ?? error)));
  return page;
}

// Opens ComfyUI and waits until its nodes are there; the templates that a first visit opens stay.
export async function visit(page, url) {
  await page.goto(url, { waitUntil: "domcontentloaded" });
  await ready(page);
}

export async function ready(page) {
  await page.waitForFunction(() => window.app?.graph && window.app.isGraphReady !== false
    && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 100, null, { timeout: 120000 });
  await page.waitForFunction(() => !document.getElementById("splash-loader"), null, { timeout: 120000 });
  await page.waitForTimeout(1500);
}
