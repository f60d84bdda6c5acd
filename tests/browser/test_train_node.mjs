// The training node on the host's real page:  node test_train_node.mjs URL TASK.json RESULT.json
//
// TASK: `graph` (API form, the training node in it), `pictures` (a folder for screenshots).  Run from the page, watched
// until a preview is there; the page is closed and another one opened, which shows the same training; stopped there;
// queued again with `steps` just beyond where it stopped, until it says that it has finished.
import { readFileSync, writeFileSync } from "node:fs";
import { launched, newPage, visit } from "./browser.mjs";

const [url, taskFile, resultFile] = process.argv.slice(2);
const task = JSON.parse(readFileSync(taskFile, "utf8"));
const browser = await launched();
const problems = [];
const result = { problems };

try {
  let page = await open();
  await page.evaluate(place, task.graph);
  result.before = await panel(page);
  await page.getByTestId("queue-button").click();
  const runs = (shown) => shown.picture && shown.points > 2 && shown.text.startsWith("step");
  result.running = await said(page, runs); // a moment later the next picture may be on its way
  await page.screenshot({ path: `${task.pictures}/running.png` });
  result.saved = await page.evaluate(() => JSON.stringify(window.app.graph.serialize()));
  await page.context().close();

  page = await open();
  await page.evaluate(place, task.graph);
  result.reopened = await said(page, runs);
  await page.screenshot({ path: `${task.pictures}/reopened.png` });
  await page.locator(".scedit-training-stop").click();
  result.stopped = await said(page, (shown) => shown.text.startsWith("stopped at step"));
  await page.screenshot({ path: `${task.pictures}/stopped.png` });

  const steps = Number(result.stopped.text.match(/\d+/)[0]) + 10;
  await page.evaluate((count) => {
    const node = window.app.graph._nodes.find((each) => each.type === "SCEditTrainTuner");
    node.widgets.find((widget) => widget.name === "steps").value = count;
  }, steps);
  await page.getByTestId("queue-button").click();
  result.finished = await said(page, (shown) => shown.text.startsWith("finished"));
  result.steps = steps;
  await page.screenshot({ path: `${task.pictures}/finished.png` });
} catch (error) {
  result.error = String(error);
} finally {
  writeFileSync(resultFile, JSON.stringify(result));
  await browser.close();
}

async function open() {
  const page = await newPage(browser, { width: 1280, height: 860 }, problems);
  await visit(page, url);
  // another test on this server may have left the page in another language
  await page.evaluate(() => window.app.extensionManager.setting.set("Comfy.Locale", "en"));
  await page.waitForTimeout(500);
  await page.keyboard.press("Escape"); // a first visit opens the templates
  await page.waitForTimeout(500);
  return page;
}

// What the panel shows, or null where the node has none.
async function panel(page) {
  return page.evaluate(() => {
    const node = window.app.graph._nodes.find((each) => each.type === "SCEditTrainTuner");
    const shown = node?.sceditPanel;
    return shown && {
      visible: shown.panel.style.display !== "none",
      text: shown.text.textContent,
      points: Number(shown.curve.dataset.points ?? 0),
      picture: shown.picture.style.display !== "none" && shown.picture.naturalWidth > 0,
    };
  });
}

// What the panel shows as soon as that is enough.
async function said(page, enough) {
  for (const begun = Date.now(); Date.now() - begun < 240000;) {
    const shown = await panel(page);
    if (shown && enough(shown)) return shown;
    if (shown && /expected .* found/.test(shown.text)) throw new Error(shown.text);
    await page.waitForTimeout(200);
  }
  throw new Error(`waited too long, the panel says: ${JSON.stringify(await panel(page))}`);
}

// --- in the page --------------------------------------------------------------------------------------------------

async function place(graph) {
  const { app } = window;
  await app.loadApiJson(graph, "training");
  const node = app.graph._nodes.find((each) => each.type === "SCEditTrainTuner");
  node.pos = [60, 60];
  node.setSize([460, node.computeSize()[1]]);
  app.graph._nodes.filter((other) => other !== node).forEach((other, i) => { other.pos = [600, 60 + 200 * i]; });
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset[0] = 60;
  app.canvas.ds.offset[1] = 40;
  app.canvas.setDirty(true, true);
}
