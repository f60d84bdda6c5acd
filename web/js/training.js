// The panel on the nodes that train: what the training says, where its files are, its loss, its latest preview.
// Messages go to every page (nodes/training/page.py); a page that is opened later asks for what it has missed.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { addPanel, fill, lost } from "./training_panel.js";

const NODES = new Set(["SCEditTrainTuner", "SCEditTrainOnModel", "SCEditDistillControlNet"]);
const MESSAGE = "scedit.training";
const CREATED_SECONDS = 0.3; // until a new node has its id and its widgets
let created;
let words = {}; // of locales/<language>/main.json, by language

if (!app.extensions?.some(({ name }) => name === "SCEdit.Training")) { // a second copy of the pack
  // Before `setup`: the page connects earlier, and complains of messages that nobody has asked for.
  api.addEventListener(MESSAGE, ({ detail }) => app.graph && show(detail));
  app.registerExtension({
    name: "SCEdit.Training",
    async setup() {
      api.addEventListener("reconnected", catchUp);
      const answer = await api.fetchApi("/i18n");
      if (answer.ok) words = await answer.json();
    },
    nodeCreated(node) {
      if (!NODES.has(node.comfyClass)) return;
      addPanel(node, said, stop);
      clearTimeout(created);
      created = setTimeout(catchUp, CREATED_SECONDS * 1000); // pasted, undone, or opened in a way that configures no graph
    },
    afterConfigureGraph() { // a workflow was opened, at the start of the page too
      catchUp();
    },
  });
}

async function catchUp() {
  const answer = await api.fetchApi("/scedit/training");
  if (!answer.ok) return;
  const trainings = await answer.json();
  for (const [, node] of nodesOf(app.graph)) { // a server that was started anew knows nothing of what it ran before
    const shown = node.sceditPanel?.training;
    if (shown?.state === "running" && !trainings.some((each) => each.started === shown.started)) lost(node);
  }
  for (const training of trainings) show(training);
}

async function stop(training) {
  const answer = await api.fetchApi(`/scedit/training/stop?${new URLSearchParams({ name: training.name })}`, { method: "POST" });
  if (!answer.ok) catchUp();
}

// A training belongs to the node that started it; where that is not on this canvas, to the first one of its name.
function show(training) {
  const nodes = [...nodesOf(app.graph)].filter(([, node]) => node.sceditPanel);
  const own = nodes.find(([id, node]) => id === String(training.node)
    && (nameOf(node) === undefined || nameOf(node) === training.name
      || node.sceditPanel.training?.started === training.started));
  const found = own ?? nodes.find(([, node]) => nameOf(node) === training.name);
  if (found) fill(found[1], training);
}

// The tuner's name that a node's widget has; undefined where it comes from another node.
function nameOf(node) {
  if (node.inputs?.some((input) => input.name === "name" && input.link != null)) return undefined;
  const name = String(node.widgets?.find((widget) => widget.name === "name")?.value ?? "");
  return name.trim().replace(/\.safetensors$/, "").replaceAll("\\", "/");
}

// All nodes with their ids as the server has them, those inside subgraphs as "outer:inner".
function* nodesOf(graph, before = "") {
  for (const node of graph?._nodes ?? []) {
    yield [`${before}${node.id}`, node];
    if (node.subgraph) yield* nodesOf(node.subgraph, `${before}${node.id}:`);
  }
}

// A text in the page's language; without one, `otherwise`.
function said(key, values = {}, otherwise = "") {
  const locale = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
  const tables = [words[locale], words[locale.split("-")[0]], words.en].map((each) => each?.scedit?.training);
  const text = tables.find((table) => table?.[key])?.[key];
  return text?.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "") ?? otherwise;
}
