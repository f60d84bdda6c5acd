// The panel of a training and the notice of an error, told what a server tells:  node test_panel.mjs URL GRAPH.json RESULT.json
//
// GRAPH (API form): trainings 10, whose name is a widget's, and 11, whose name comes from another node; 12 is put into a
// subgraph.  RESULT: what the page shows, by what is looked at; test_panel_page.py says what it should.
import { readFileSync, writeFileSync } from "node:fs";
import { launched, newPage, visit } from "./browser.mjs";

const [url, graphFile, resultFile] = process.argv.slice(2);
const browser = await launched();
const result = { problems: [] };
const page = await newPage(browser, { width: 1280, height: 860 }, result.problems);
let answer = (route) => route.fulfill({ json: [] }); // to the page's question about trainings; the server has run others
try {
  await opened(JSON.parse(readFileSync(graphFile, "utf8")));
  for (const look of [names, late, lost, stop, properties, canvas, notices]) result[look.name] = await look();
} catch (error) {
  result.error = String(error.stack);
} finally {
  writeFileSync(resultFile, JSON.stringify(result));
  await browser.close();
}

// Which of the two panels shows a training: of this workflow or another one, under this name or that.
async function names() {
  const { here } = result;
  const seen = {};
  const cases = {
    renamed: { node: "10", workflow: here, name: "earlier" },
    another_workflows_link: { node: "11", workflow: "elsewhere", name: "theirs" },
    another_workflows_name: { node: "11", workflow: "elsewhere", name: "own" },
    unsaved_other_name: { node: "10", workflow: "00000000-0000-0000-0000-000000000000", name: "any" },
    programs_link: { node: "11", workflow: null, name: "any" },
    programs_name: { node: "10", workflow: null, name: "own" },
    programs_other_name: { node: "10", workflow: null, name: "any" },
  };
  for (const [name, training] of Object.entries(cases)) {
    await say(training);
    seen[name] = await shown("name");
    await anew();
  }
  await widget("sub\\x"); // a folder on Windows, a name on Linux
  for (const name of ["sub/x", "sub\\x"]) {
    await say({ node: "99", workflow: null, name });
    seen[name] = await shown("name");
  }
  await widget("own");
  await anew();
  return seen;
}

// A list that comes after a newer message.
async function late() {
  await say({ node: "10", workflow: result.here, name: "own", state: "finished", changed: 8, text: "newer" });
  await say({ node: "10", workflow: result.here, name: "own", changed: 7, text: "older" });
  const text = await shown("text");
  await anew();
  return text;
}

// A new server knows no training: one that was shown before it was asked is over, one that began meanwhile is not.
async function lost() {
  await say({ node: "10", workflow: result.here, name: "own" });
  const asked = new Promise((resolve) => { answer = resolve; });
  await page.evaluate(() => window.app.api.dispatchEvent(new CustomEvent("reconnected")));
  const route = await asked;
  await say({ node: "11", workflow: result.here, name: "begun" });
  await route.fulfill({ json: [] });
  await page.waitForTimeout(300);
  const states = await shown("state");
  await anew();
  return states;
}

// The button after a request that the server did not get, and one that it could do nothing with.
async function stop() {
  await say({ node: "10", workflow: result.here, name: "own" });
  const seen = [];
  for (const refuse of [(route) => route.abort(), (route) => route.fulfill({ status: 404 })]) {
    answer = refuse;
    await page.route("**/scedit/training/stop*", refuse);
    await page.locator(".scedit-training-stop").first().click();
    await page.waitForTimeout(300);
    seen.push(await page.locator(".scedit-training-stop").first().isEnabled());
  }
  return seen;
}

// How wide the panel is before and after the node's properties are looked through.
async function properties() {
  const width = () => page.evaluate(() => window.app.graph.getNodeById(10).sceditPanel.panel.clientWidth);
  const seen = [await width()];
  await page.evaluate(() => {
    const { canvas, graph } = window.app;
    canvas.select(graph.getNodeById(10));
    canvas.onSelectionChange?.(canvas.selected_nodes);
  });
  const button = page.locator('[aria-label*="properties" i]').first();
  await button.click();
  await page.mouse.move(1150, 600);
  for (let i = 0; i < 5; i++) { // what is out of sight there is not made
    await page.waitForTimeout(200);
    await page.mouse.wheel(0, 2000);
  }
  await page.waitForTimeout(500);
  await button.click();
  await page.evaluate(() => window.app.canvas.setDirty(true, true));
  await page.waitForTimeout(500);
  return [...seen, await width()];
}

// What the wheel and the middle button do to the canvas over the panel: the scale's change, and how far it is moved.
async function canvas() {
  const text = "a long sentence of a training\n".repeat(20);
  await say({ node: "10", workflow: result.here, name: "own", changed: 9, text });
  const at = async (part) => {
    const box = await page.locator(part).first().boundingBox();
    await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
  };
  const view = () => page.evaluate(() => {
    const { scale, offset } = window.app.canvas.ds;
    return [scale, ...offset];
  });
  const wheeled = async (part) => {
    await at(part);
    const [before] = await view();
    await page.mouse.wheel(0, 120);
    await page.waitForTimeout(200);
    return (await view())[0] / before;
  };
  const seen = { head: await wheeled(".scedit-training-name"), scrolling: await wheeled(".scedit-training-text") };
  await page.keyboard.down("Control");
  seen.with_control = await wheeled(".scedit-training-text");
  await page.keyboard.up("Control");
  const [, left, top] = await view();
  await at(".scedit-training-name");
  await page.mouse.down({ button: "middle" });
  await page.mouse.move(700, 500, { steps: 3 });
  await page.mouse.up({ button: "middle" });
  const [, x, y] = await view();
  return { ...seen, moved: Math.hypot(x - left, y - top) };
}

// Whose name a notice has, and whether there is one for a sentence that only a panel has: in the window, and outside.
async function notices() {
  // Some versions say the sentence in a notice of their own.
  await page.addStyleTag({ content: '[data-testid="error-overlay"] { display: none !important }' });
  const seen = {};
  seen.inside = await noticed({ node_id: result.inside, node_type: "EmptyLatentImage" });
  seen.of_another_workflow = await noticed({ node_id: "10", node_type: "EmptyLatentImage" });
  await page.evaluate(() => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", true));
  for (const [name, x] of [["in_the_window", 100], ["outside", 9000]]) {
    await page.evaluate((to) => {
      window.app.graph.getNodeById(10).pos = [to, -500];
      window.app.canvas.ds.scale = 1;
      window.app.canvas.ds.offset[0] = window.app.canvas.ds.offset[1] = 0;
      window.app.canvas.setDirty(true, true);
    }, x);
    await page.waitForTimeout(700);
    const text = `widget: expected what is ${name}`;
    await say({ node: "10", workflow: result.here, name: "own", state: "failed", changed: 10, text });
    seen[name] = await noticed({ node_id: "10", node_type: "SCEditTrainOnModel", exception_message: text });
  }
  await page.evaluate(() => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", false));
  return seen;
}

// --- what these are made of ---------------------------------------------------------------------------------------

async function opened(graph) {
  await page.route("**/scedit/training", (route) => answer(route));
  await visit(page, url);
  await page.evaluate(() => window.app.extensionManager.setting.set("Comfy.Locale", "en"));
  await page.keyboard.press("Escape"); // a first visit opens the templates
  Object.assign(result, await page.evaluate(async (api) => {
    const { app } = window;
    await app.loadApiJson(api, "panel");
    const inner = app.graph.getNodeById(12);
    inner.title = "within";
    const { node } = app.graph.convertToSubgraph(new Set([inner]));
    app.graph._nodes.forEach((each, i) => { each.pos = [60 + 500 * i, 60]; });
    app.canvas.ds.scale = 0.8;
    app.canvas.setDirty(true, true);
    await app.loadGraphData(app.graph.serialize()); // as a saved workflow, which has an id
    return { here: app.graph.id, inside: `${node.id}:${node.subgraph._nodes[0].id}` };
  }, graph));
  await page.waitForTimeout(800);
}

// A message of the server about a training.
function say(training) {
  return page.evaluate((detail) => window.app.api.dispatchEvent(new CustomEvent("scedit.training", { detail })), {
    started: 1, changed: 1, state: "running", words: [], text: "step 1", files: {}, remarks: [], verdict: [], step: 1,
    steps: 9, losses: [], preview: null, ...training });
}

// A value of the training that each panel shows, by node.
function shown(key) {
  return page.evaluate((name) => Object.fromEntries(window.app.graph._nodes.filter((node) => node.sceditPanel?.training)
    .map((node) => [node.id, node.sceditPanel.training[name]])), key);
}

// As if nothing had been told.
function anew() {
  return page.evaluate(() => {
    for (const { sceditPanel } of window.app.graph._nodes) if (sceditPanel) delete sceditPanel.training;
  });
}

function widget(name) {
  return page.evaluate((value) => {
    window.app.graph.getNodeById(10).widgets.find((each) => each.name === "name").value = value;
  }, name);
}

// The notice of an error of this pack; null without one.
async function noticed(error) {
  await page.evaluate((detail) => {
    window.noticed = null;
    window.app.extensionManager.toast.add = (notice) => { window.noticed = notice; };
    window.app.api.dispatchEvent(new CustomEvent("execution_error", { detail }));
  }, { exception_type: "SCEdit", exception_message: "widget: expected nothing",
    traceback: [], ...error });
  await page.waitForTimeout(1000);
  return page.evaluate(() => window.noticed && window.noticed.summary);
}
