// The panel of a training on ComfyUI's real page:  node walk_panel.mjs URL TASK.json RESULT.json
//
// TASK: `graph` (API form, Train SCEdit on Model as node 10), `process` (the same with Train SCEdit Tuner), `pictures` (a
// folder for screenshots).  Each scene below leaves what the panels showed; walk_panel.py says what they should.  A line
// "restart" on the standard output asks for a new server at the same address, a line on the standard input says that it
// is there.
import { readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { launched, newPage, visit } from "./browser.mjs";

const [url, taskFile, resultFile] = process.argv.slice(2);
const task = JSON.parse(readFileSync(taskFile, "utf8"));
const browser = await launched();
const problems = [];
const result = { problems };
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const scenes = { failures, firstSecond, twoTabs, linkedName, queuedNames, twoOfOneName, subgraph, looks, processToo, restart };
try {
  for (const [name, scene] of Object.entries(scenes)) {
    if (task.only?.length && !task.only.includes(name)) continue;
    result[name] = await scene().catch((error) => ({ error: String(error.stack) }));
    for (const context of browser.contexts()) await context.close();
    console.log(name, JSON.stringify(result[name]));
  }
} finally {
  writeFileSync(resultFile, JSON.stringify(result));
  await browser.close();
}
process.exit(0); // standard input is still open

// Failures before anything is trained, one after the other: each replaces the one before, and a good run the last.
async function failures() {
  const page = await opened(task.graph);
  const seen = {};
  const cases = { folder: { folder: "nowhere" }, name: { name: "" }, away: { name: "../../away" } };
  for (const [name, widgets] of Object.entries(cases)) {
    await set(page, { folder: "few", name: "failing", ...widgets });
    await run(page);
    await until(page, ([panel]) => panel?.state === "failed" && panel.text !== seen.last?.text);
    seen[name] = seen.last = (await panels(page))[0];
    await look(page, `failure_${name}`);
  }
  await set(page, { folder: "few", name: "failing", steps: 2 });
  await run(page);
  await until(page, ([panel]) => panel.state === "finished");
  seen.last = (await panels(page))[0];
  await look(page, "finished");
  return seen;
}

// Stop as soon as it can be pressed, and again for the run that resumes.
async function firstSecond() {
  const page = await opened(task.graph);
  await set(page, { name: "first_second" });
  const stops = [];
  for (let i = 0; i < 2; i++) {
    await run(page);
    await page.locator(".scedit-training-stop").click({ timeout: 60000 });
    const pressed = Date.now();
    await until(page, ([panel]) => panel.state !== "running");
    stops.push({ ...(await panels(page))[0], seconds: (Date.now() - pressed) / 1000 });
  }
  return stops;
}

// A second page with the same graph, opened before: both show it; stopped in the second.  A third one with another graph.
async function twoTabs() {
  const [one, two] = [await opened(task.graph), await opened(task.graph)];
  const other = await opened(withoutTraining(task.graph));
  for (const page of [one, two]) await set(page, { name: "two_tabs" });
  await run(one);
  const begun = ([panel]) => panel?.points > 2;
  await until(one, begun);
  await until(two, begun);
  const running = [(await panels(one))[0], (await panels(two))[0]];
  await look(two, "second_tab");
  await two.locator(".scedit-training-stop").click();
  for (const page of [one, two]) await until(page, ([panel]) => panel.state === "stopped");
  return { running, stopped: [(await panels(one))[0], (await panels(two))[0]], other: await panels(other) };
}

// The name comes from another node.
async function linkedName() {
  const graph = structuredClone(task.graph);
  graph[40] = { class_type: "PrimitiveString", inputs: { value: "linked" } };
  graph[10].inputs.name = ["40", 0];
  graph[10].inputs.steps = 3;
  const page = await opened(graph);
  await run(page);
  await until(page, ([panel]) => panel?.state === "finished");
  const live = await panels(page);
  await look(page, "linked_name");
  const later = await opened(null, await saved(page));
  await until(later, ([panel]) => panel.shown);
  return { live, later: await panels(later) };
}

// Two trainings queued from one node under names of their own, a third name by then: each is shown, also where the saved
// workflow is opened again, and the second one stopped.  Another workflow whose node of that number has a linked name
// shows neither.
async function queuedNames() {
  const page = await opened(task.graph);
  await reopen(page, { ...(await saved(page)), id: crypto.randomUUID() }); // a graph in API form may have no id
  const linked = structuredClone(task.graph);
  linked[40] = { class_type: "PrimitiveString", inputs: { value: "linked" } };
  linked[10].inputs.name = ["40", 0];
  const other = await opened(linked);
  for (const [name, steps] of [["night_a", 40], ["night_b", 4000]]) {
    await set(page, { name, steps });
    await run(page);
    await page.waitForTimeout(500);
  }
  await set(page, { name: "night_c" });
  const first = await until(page, ([panel]) => panel?.name === "night_a" && panel.points > 2);
  const second = await until(page, ([panel]) => panel.name === "night_b" && panel.points > 2);
  await reopen(page, await saved(page));
  const again = await until(page, ([panel]) => panel?.points > 2);
  await look(page, "queued_names");
  await page.locator(".scedit-training-stop").click();
  await until(page, ([panel]) => panel.state === "stopped");
  return { first, second, again, other: await panels(other) };
}

// Two nodes of one name: the first trains, the second is refused; each shows its own.
async function twoOfOneName() {
  const graph = structuredClone(task.graph);
  graph[10].inputs = { ...graph[10].inputs, name: "one_name", steps: 3 };
  graph[20] = structuredClone(graph[10]);
  graph[20].inputs.seed = 5;
  const page = await opened(graph);
  await run(page);
  await until(page, (all) => all.length === 2 && all.every((panel) => panel.state && panel.state !== "running"));
  await look(page, "two_of_one_name");
  return panels(page);
}

// The training inside a subgraph, seen from outside, from inside, and by a page that is opened later.
async function subgraph() {
  const page = await opened(task.graph);
  await set(page, { name: "inside" });
  await page.evaluate(() => {
    const { graph, canvas } = window.app;
    const { subgraph, node } = graph.convertToSubgraph(new Set(graph._nodes.filter(({ id }) => String(id) === "10")));
    node.pos = [60, 60];
    canvas.ds.scale = 1;
    canvas.ds.offset[0] = 60;
    canvas.ds.offset[1] = 40;
  });
  const workflow = await saved(page);
  await run(page);
  await until(page, ([panel]) => panel?.points > 2);
  const outside = await panels(page);
  await look(page, "subgraph_outside");
  await page.evaluate(() => {
    const { graph, canvas } = window.app;
    const node = graph._nodes.find((each) => each.subgraph);
    if (canvas.openSubgraph) canvas.openSubgraph(node.subgraph, node);
    else canvas.setGraph(node.subgraph);
  });
  await page.waitForTimeout(1500);
  await look(page, "subgraph_inside");
  const later = await opened(null, workflow);
  await until(later, ([panel]) => panel?.state === "running");
  const inside = await panels(page);
  await page.locator(".scedit-training-stop").click();
  await until(page, ([panel]) => panel.state === "stopped");
  await until(later, ([panel]) => panel.state === "stopped");
  return { outside, inside, stopped: await panels(page), later: await panels(later) };
}

// Contrast of all that is written, in both themes; the words in Chinese.
async function looks() {
  const page = await opened(task.graph);
  await set(page, { name: "looks" });
  await run(page);
  await until(page, ([panel]) => panel?.points > 2 && panel.verdict);
  const seen = {};
  for (const theme of ["light", "dark"]) {
    await setting(page, "Comfy.ColorPalette", theme);
    await page.waitForTimeout(800);
    seen[theme] = await page.evaluate(contrasts);
    await look(page, theme);
  }
  await setting(page, "Comfy.Locale", "zh");
  const chinese = /[\u4e00-\u9fff]/;
  seen.chinese = (await until(page, ([panel]) => chinese.test(panel?.word) && panel.verdict))[0]; // it makes the node anew
  await look(page, "chinese");
  await page.locator(".scedit-training-stop").click();
  await until(page, ([panel]) => panel.state !== "running");
  seen.stopped = (await panels(page))[0];
  await setting(page, "Comfy.Locale", "en");
  return seen;
}

// Train SCEdit Tuner: a failure before its process, and Stop while that starts.
async function processToo() {
  const page = await opened(task.process);
  await set(page, { folder: "nowhere" });
  await run(page);
  await until(page, ([panel]) => panel?.state === "failed");
  const failed = (await panels(page))[0];
  await set(page, { folder: "few" });
  await run(page);
  await page.locator(".scedit-training-stop").click({ timeout: 60000 });
  const pressed = Date.now();
  await until(page, ([panel]) => panel.state !== "running");
  return { failed, stopped: (await panels(page))[0], seconds: (Date.now() - pressed) / 1000 };
}

// The server goes away in the middle; the new one runs another graph, which no button here may end.
async function restart() {
  const page = await opened(task.graph);
  await set(page, { name: "restarted" });
  await run(page);
  await until(page, ([panel]) => panel?.points > 2);
  console.log("restart");
  await answers.next();
  await until(page, ([panel]) => panel.state !== "running");
  const lost = (await panels(page))[0];
  await look(page, "restarted");
  await run(page);
  await until(page, ([panel]) => panel.state === "running" && /step \d/.test(panel.text));
  const resumed = (await panels(page))[0];
  await page.locator(".scedit-training-stop").click();
  await until(page, ([panel]) => panel.state === "stopped");
  return { lost, resumed };
}

// --- what the scenes are made of ----------------------------------------------------------------------------------

async function opened(graph, workflow) {
  const page = await newPage(browser, { width: 1280, height: 900 }, problems);
  await visit(page, url);
  await page.keyboard.press("Escape"); // a first visit opens the templates
  await setting(page, "Comfy.VueNodes.Enabled", Boolean(task.vueNodes));
  await page.waitForTimeout(500);
  if (workflow) await reopen(page, workflow);
  else await page.evaluate(placed, graph);
  await page.waitForTimeout(500);
  return page;
}

// The workflow as the page would save it.
function saved(page) {
  return page.evaluate(() => window.app.graph.serialize());
}

function reopen(page, workflow) {
  return page.evaluate((graph) => window.app.loadGraphData(graph), workflow);
}

function setting(page, name, value) {
  return page.evaluate(([key, to]) => window.app.extensionManager.setting.set(key, to), [name, value]);
}

// Widgets of the training.
function set(page, values) {
  return page.evaluate((wanted) => {
    const node = window.app.graph._nodes.find((each) => String(each.id) === "10");
    for (const widget of node.widgets) if (widget.name in wanted) widget.value = wanted[widget.name];
  }, values);
}

async function run(page) {
  await page.keyboard.press("Escape"); // the notice of an earlier error
  await page.getByTestId("queue-button").click();
}

function look(page, name) {
  return page.screenshot({ path: `${task.pictures}/${name}.png` });
}

async function until(page, enough) {
  for (const begun = Date.now(); Date.now() - begun < 180000;) {
    const shown = await panels(page);
    if (shown.length && enough(shown)) return shown;
    await page.waitForTimeout(100);
  }
  await look(page, "waited_in_vain");
  throw new Error(`waited in vain, the panels say ${JSON.stringify(await panels(page))}`);
}

function withoutTraining(graph) {
  return Object.fromEntries(Object.entries(graph).filter(([id]) => id !== "10"));
}

// What all panels show, those in subgraphs too.
function panels(page) {
  return page.evaluate(() => {
    const all = (graph) => graph._nodes.flatMap((node) => [node, ...(node.subgraph ? all(node.subgraph) : [])]);
    return all(window.app.rootGraph ?? window.app.graph).filter((node) => node.sceditPanel).map((node) => {
      const { panel, text, verdict, files, curve, picture, stop, training, state } = node.sceditPanel;
      const shown = panel.style.display !== "none";
      return {
        node: String(node.id), shown, name: shown ? training.name : null,
        state: shown ? training.state : null, word: state.textContent,
        text: text.textContent, verdict: verdict.textContent, files: files.innerText, points: Number(curve.dataset.points ?? 0),
        stop: shown && stop.style.display !== "none" && !stop.disabled, word_of_stop: stop.textContent,
        picture: picture.style.display !== "none" && picture.naturalWidth > 0,
        whole: text.scrollHeight <= text.clientHeight + 1 || getComputedStyle(text).overflowY === "auto",
      };
    });
  });
}

async function placed(graph) {
  const { app } = window;
  await app.loadApiJson(graph, "training");
  let x = 60;
  for (const node of app.graph._nodes) {
    const trains = /^SCEditTrain/.test(node.type);
    node.pos = trains ? [x, 100] : [60 + 350 * (node.id % 7), 1200];
    if (trains) x += 460;
  }
  app.canvas.ds.scale = 0.85;
  app.canvas.ds.offset[0] = 40;
  app.canvas.ds.offset[1] = 40;
  app.canvas.setDirty(true, true);
}

// Contrast (WCAG 2.1) of each part of the panel that shows text, on the nearest background that is not transparent.
function contrasts() {
  const { sceditPanel } = window.app.graph._nodes.find((node) => node.sceditPanel);
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    const color = rgb(getComputedStyle(element).backgroundColor);
    return color[3] > 250 || !element.parentElement ? color : behind(element.parentElement);
  };
  const found = {};
  for (const part of ["state", "name", "stop", "text", "verdict", "files"]) {
    const [one, other] = [rgb(getComputedStyle(sceditPanel[part]).color), behind(sceditPanel[part])].map(luminance);
    found[part] = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  }
  return found;
}
