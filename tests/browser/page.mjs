// Drives the host's real page in headless Chromium:  node page.mjs URL TASKS.json RESULTS.json
//
// A task has `name` and either `api` (a graph in API form: laid out, with `note` beside it and the nodes in `folded`
// shown as their titles, and saved as the page saves it) or `workflow` (a saved one: dropped on the canvas as a file).
// `set`: widgets to change first, by node type or id.  `run`: the Run button is pressed, and the end awaited, or with `steps` the moment when a training has done so many; it
// is then stopped.  `opened`: where a screenshot goes before anything is pressed.  `picture`: where a screenshot goes; with `crop`, of the nodes alone.  `help`: a node type whose help
// page is opened instead.  `search`: words to search nodes by instead.  `locale`: the language to set first.
import { readFileSync, writeFileSync } from "node:fs";
import { launched, newPage, visit } from "./browser.mjs";
import * as inPage from "./in_page.mjs";

const [url, tasksFile, resultsFile] = process.argv.slice(2);
const tasks = JSON.parse(readFileSync(tasksFile, "utf8"));
const VIEW = { width: 1600, height: 860 };

const browser = await launched();
const problems = [];
const page = await newPage(browser, VIEW, problems);
await open();

const results = [];
for (const task of tasks) {
  problems.length = 0;
  const result = await done(task).catch((error) => ({ failed: String(error) }));
  results.push({ name: task.name, ...result, problems: [...problems] });
}
writeFileSync(resultsFile, JSON.stringify(results));
await browser.close();

async function open() {
  await visit(page, url);
  await page.keyboard.press("Escape"); // a first visit opens the templates
  await page.evaluate(async () => {
    const settings = window.app.extensionManager?.setting;
    await settings?.set("Comfy.Minimap.Visible", false);
    await settings?.set("Comfy.Graph.CanvasInfo", false);
    await settings?.set("Comfy.NodeBadge.NodeSourceBadgeMode", "None");
    await settings?.set("LiteGraph.Canvas.MinFontSizeForLOD", 0); // labels stay readable on small nodes
  });
}

async function done(task) {
  if (task.locale) {
    await page.evaluate((locale) => window.app.extensionManager.setting.set("Comfy.Locale", locale), task.locale);
    await open(); // node definitions are translated when the page starts
  }
  if (task.help) return await helped(task);
  if (task.search) return await searched(task);
  if (task.api) await page.evaluate(inPage.layOut, task);
  else {
    await page.evaluate(inPage.drop, task);
    await page.waitForFunction((count) => window.app.graph._nodes.length === count, task.workflow.nodes.length);
  }
  await page.waitForTimeout(700);
  if (task.opened) {
    await page.waitForTimeout(1500);
    await page.screenshot({ path: task.opened });
  }
  await page.keyboard.press("Escape"); // what the page says of model files that it does not find
  const result = await page.evaluate(inPage.look);
  if (task.api || task.run) await page.evaluate(inPage.fitView, VIEW); // a node out of sight loads no pictures
  if (task.api) result.saved = await page.evaluate(() => window.app.graph.serialize());
  if (task.set) await page.evaluate(inPage.setWidgets, task.set);
  if (task.run && task.steps) await train(task.steps);
  else if (task.run) Object.assign(result, await run());
  if (task.picture) {
    const alone = task.stack?.length ? task.stack : undefined;
    if (alone) {
      await page.setViewportSize({ width: 900, height: 1700 });
      await page.evaluate(inPage.stack, alone);
    }
    await page.evaluate(inPage.fitView, alone ? { width: 900, height: 1700, alone } : VIEW);
    await page.waitForTimeout(800);
    const clip = task.crop ? await page.evaluate(inPage.box, alone) : undefined;
    await page.screenshot({ path: task.picture, type: "png", clip });
    if (alone) await page.setViewportSize(VIEW);
  }
  if (task.steps) await page.evaluate(() => window.app.api.interrupt());
  return result;
}

// Presses Run and waits for the end: the error's text where there is one, what the page then says, and the pictures that
// the nodes show.  A graph that the server refuses ends with what it says of it.
async function run() {
  // What other graphs have made is forgotten: a node that need not run again says nothing, and would show nothing.
  await page.evaluate(() => fetch("/free", { method: "POST", body: JSON.stringify({ free_memory: true }) }));
  await page.waitForTimeout(1000);
  const end = page.evaluate(inPage.ended);
  const refused = page.waitForResponse((answer) => answer.url().endsWith("/prompt") && answer.status() >= 400,
    { timeout: 0 }).then(async (answer) => ({ error: await answer.text(), made: [] })).catch(() => new Promise(() => {}));
  await page.getByTestId("queue-button").click();
  const late = page.waitForTimeout(300000).then(() => ({ error: "no end within five minutes", made: [] }));
  const { error, made } = await Promise.race([end, late, refused]);
  await page.waitForFunction(inPage.areShown, made, { timeout: 30000 });
  await page.waitForTimeout(error ? 2000 : 500);
  return { error, says: await page.evaluate(() => document.body.innerText), shown: await page.evaluate(inPage.shown) };
}

// Presses Run and waits until the panel of a training shows that many steps, and a preview.
async function train(steps) {
  await page.getByTestId("queue-button").click();
  await page.waitForFunction((wanted) => window.app.graph._nodes.some(({ sceditPanel }) => sceditPanel
    && Number(/^step (\d+)/.exec(sceditPanel.text.textContent)?.[1] ?? 0) >= wanted
    && sceditPanel.picture.naturalWidth > 0), steps, { timeout: 500000 });
}

// Searches nodes as a user does: a double click on the canvas, words.  `search`: for each words a name that is waited for;
// the names that the page then lists are told, with it or, after a while, without.
async function searched({ search, picture }) {
  await page.evaluate(() => window.app.graph.clear());
  const field = page.locator('[role="search"] input').first();
  const found = {};
  for (const [words, wanted] of Object.entries(search)) {
    while (!(await field.isVisible())) { // what a first visit opens may still be before the canvas
      await page.keyboard.press("Escape");
      await page.mouse.dblclick(700, 500);
      await field.waitFor({ timeout: 3000 }).catch(() => {});
    }
    await field.fill(words);
    const results = page.locator('[data-testid="result-item"],.p-autocomplete-option,[role="option"]');
    const end = Date.now() + 10000;
    do found[words] = (await results.allInnerTexts()).map((text) => text.split("\n")[0]);
    while (!found[words].some((name) => name.includes(wanted)) && Date.now() < end);
    if (picture && words === Object.keys(search)[0]) await page.screenshot({ path: picture });
    for (let i = 0; i < 2; i++) await page.keyboard.press("Escape");
    await field.waitFor({ state: "hidden" });
  }
  return { found };
}

// Opens a node's help page as a user does: select it, press i.  Its text, and the widths of its pictures.
async function helped({ help, picture }) {
  await page.evaluate(inPage.select, help);
  await page.getByTestId("info-button").click();
  const content = page.locator(".node-help-content");
  await content.locator("h2").first().waitFor({ timeout: 20000 });
  await page.waitForTimeout(1000);
  if (picture) await page.screenshot({ path: picture, type: "png" });
  const pictures = await content.locator("img").evaluateAll((images) => images.map((image) => image.naturalWidth));
  return { text: await content.innerText(), pictures };
}
