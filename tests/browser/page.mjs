// Drives the host's real page in headless Chromium:  node page.mjs URL TASKS.json RESULTS.json
//
// A task has `name` and either `api` (a graph in API form, with `note`: laid out, given its note, and saved as the page
// saves it) or `workflow` (a saved one: opened as a drop on the canvas would).  `picture` is where a screenshot goes.
import { createRequire } from "node:module";
import { readFileSync, writeFileSync } from "node:fs";

const require = createRequire(process.env.PLAYWRIGHT_FROM + "/");
const { chromium } = require("playwright-core");
const [url, tasksFile, resultsFile] = process.argv.slice(2);
const tasks = JSON.parse(readFileSync(tasksFile, "utf8"));

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const page = await browser.newPage({ viewport: { width: 1600, height: 860 } });
const problems = [];
page.on("console", (message) => { if (message.type() === "error") problems.push(message.text()); });
page.on("pageerror", (error) => problems.push(String(error)));
await page.goto(url, { waitUntil: "domcontentloaded" });
await page.waitForFunction(() => window.app?.graph && window.app.isGraphReady !== false
  && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 100, null, { timeout: 120000 });
await page.waitForTimeout(1500);
await page.keyboard.press("Escape"); // a first visit opens the templates
await page.evaluate(async () => {
  const settings = window.app.extensionManager?.setting;
  await settings?.set("Comfy.Minimap.Visible", false);
  await settings?.set("LiteGraph.Canvas.MinFontSizeForLOD", 0); // labels stay readable on small nodes
});

const results = [];
for (const task of tasks) {
  problems.length = 0;
  if (task.api) await page.evaluate(layOut, task);
  else await page.evaluate((workflow) => window.app.loadGraphData(workflow), task.workflow);
  await page.waitForTimeout(700);
  await page.keyboard.press("Escape");
  const result = await page.evaluate(look);
  if (task.api) {
    await page.evaluate(fitView, { width: 1600, height: 860 });
    result.saved = await page.evaluate(() => window.app.graph.serialize());
  }
  if (task.picture) {
    await page.evaluate(fitView, { width: 1600, height: 860 });
    await page.waitForTimeout(400);
    await page.screenshot({ path: task.picture, type: "jpeg", quality: 80 });
  }
  results.push({ name: task.name, ...result, problems: [...problems] });
}
writeFileSync(resultsFile, JSON.stringify(results));
await browser.close();

// --- in the page --------------------------------------------------------------------------------------------------

// What is on the canvas: nodes whose type is unknown, and the links as [from node, slot, to node, input name].
function look() {
  const graph = window.app.graph;
  const known = window.LiteGraph.registered_node_types;
  const links = [];
  for (const node of graph._nodes)
    for (const input of node.inputs ?? []) {
      if (input.link == null) continue;
      const link = graph.links.get ? graph.links.get(input.link) : graph.links[input.link];
      links.push([String(link.origin_id), link.origin_slot, String(node.id), input.name]);
    }
  return {
    types: graph._nodes.map((node) => node.type),
    missing: graph._nodes.filter((node) => !(node.type in known) || node.has_errors).map((node) => node.type),
    links,
  };
}

// Opens an API graph and puts its nodes into columns from left to right, after a column for the note.
async function layOut({ api, note, name }) {
  const { app, LiteGraph } = window;
  await app.loadApiJson(api, name);
  const graph = app.graph;
  const depth = new Map();
  const depthOf = (node) => {
    if (!depth.has(node.id)) {
      const before = (node.inputs ?? []).map((_, i) => node.getInputNode(i)).filter(Boolean);
      depth.set(node.id, before.length ? 1 + Math.max(...before.map(depthOf)) : 0);
    }
    return depth.get(node.id);
  };
  graph._nodes.forEach(depthOf);
  // A loader stands next to what it feeds, not at the far left.
  for (const node of graph._nodes) {
    const fed = (node.outputs ?? []).flatMap((output) => output.links ?? [])
      .map((id) => (graph.links.get ? graph.links.get(id) : graph.links[id]))
      .map((link) => depth.get(link.target_id));
    if (depth.get(node.id) === 0 && fed.length) depth.set(node.id, Math.max(0, Math.min(...fed) - 1));
  }
  // What comes after the sampler stands below it, so that the whole graph can be read at once.
  const sampler = depth.get(graph._nodes.find((node) => node.type === "KSampler")?.id);
  for (const node of graph._nodes)
    if (depth.get(node.id) > sampler) depth.set(node.id, sampler);
  const columns = [];
  for (const node of graph._nodes) (columns[depth.get(node.id)] ??= []).push(node);
  let x = 430;
  columns.forEach((column) => {
    let y = 60;
    for (const node of column) {
      const wanted = node.computeSize();
      node.setSize([Math.max(300, wanted[0]), Math.max(wanted[1], node.size[1])]);
      const seed = node.widgets?.find((widget) => widget.name === "control_after_generate");
      if (seed) seed.value = "fixed";
      if (node.type === "CLIPTextEncode") node.setSize([300, 120]);
      if (["SaveImage", "PreviewImage", "LoadImage"].includes(node.type)) node.setSize([300, 300]);
      node.pos = [x, y];
      y += node.size[1] + 70;
    }
    x += Math.max(...column.map((node) => node.size[0])) + 60;
  });
  const sheet = LiteGraph.createNode("MarkdownNote");
  graph.add(sheet);
  sheet.pos = [40, 60];
  sheet.setSize([340, 420]);
  sheet.widgets[0].value = note;
}

// The whole graph on the screen, below the top bar and beside the side bar.
function fitView({ width, height }) {
  const { graph, canvas } = window.app;
  const boxes = graph._nodes.map((node) => [node.pos[0], node.pos[1] - 30, node.pos[0] + node.size[0],
    node.pos[1] + node.size[1]]);
  const [left, top] = [0, 1].map((i) => Math.min(...boxes.map((box) => box[i])));
  const [right, bottom] = [2, 3].map((i) => Math.max(...boxes.map((box) => box[i])));
  const scale = Math.min((width - 120) / (right - left), (height - 190) / (bottom - top), 1);
  canvas.ds.scale = scale;
  canvas.ds.offset[0] = 80 / scale - left;
  canvas.ds.offset[1] = 120 / scale - top;
  canvas.setDirty(true, true);
}
