// The panel on the nodes that train: what the training says, where its files are, its loss, its latest preview.
// Messages go to every page (nodes/training/page.py); a page that is opened later asks for what it has missed.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { nodesOf } from "./nodes_of.js";
import { addPanel, fill, lost } from "./training_panel.js";

const NODES = new Set(["SCEditTrainTuner", "SCEditTrainOnModel", "SCEditDistillControlNet"]);
const MESSAGE = "scedit.training";
const NO_ID = "00000000-0000-0000-0000-000000000000"; // of a workflow on the canvas that has not been saved or loaded yet
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
  const before = panels().map(([, node]) => [node, node.sceditPanel.training]);
  const answer = await api.fetchApi("/scedit/training").catch(() => undefined);
  if (!answer?.ok) return;
  const trainings = await answer.json();
  // A server that was started anew knows nothing of what it ran before; what was told meanwhile it does know.
  for (const [node, shown] of before) if (shown?.state === "running" && node.sceditPanel.training === shown
    && !trainings.some((each) => each.started === shown.started)) lost(node);
  for (const training of trainings) show(training);
}

// Gives whether the server has heard it.
async function stop(training) {
  const query = new URLSearchParams({ name: training.name });
  const answer = await api.fetchApi(`/scedit/training/stop?${query}`, { method: "POST" }).catch(() => undefined);
  if (!answer?.ok) catchUp();
  return Boolean(answer?.ok);
}

// A training belongs to the node that started it; where that is not on this canvas, to the first one of its name.
function show(training) {
  const nodes = panels();
  const [, node] = nodes.find(([id, each]) => id === String(training.node) && isOwn(each, training))
    ?? nodes.find(([, each]) => isNamed(each, training)) ?? [];
  if (!node || node.sceditPanel.training?.changed > training.changed) return; // an answer can come after newer messages
  fill(node, training);
}

// Whether a node of the training's number started it: other workflows have nodes of that number too.  Its name may be
// another one by now; it tells them apart where a workflow has no id, or a program queued the graph.
function isOwn(node, training) {
  if (node.sceditPanel.training?.started === training.started) return true;
  if (training.workflow !== null && training.workflow !== NO_ID) return training.workflow === app.graph.id;
  return isNamed(node, training) ?? true;
}

// Whether the tuner's name on a node is that of a training; undefined where it comes from another node.
function isNamed(node, training) {
  if (node.inputs?.some((input) => input.name === "name" && input.link != null)) return undefined;
  const value = String(node.widgets?.find((widget) => widget.name === "name")?.value ?? "");
  const name = value.trim().replace(/\.safetensors$/, "");
  return [name, name.replaceAll("\\", "/")].includes(training.name); // the second on Windows
}

// The nodes that train, with their ids.
function panels() {
  return [...nodesOf(app.graph)].filter(([, node]) => node.sceditPanel);
}

// A text in the page's language; without one, `otherwise`.
function said(key, values = {}, otherwise = "") {
  const locale = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
  const tables = [words[locale], words[locale.split("-")[0]], words.en].map((each) => each?.scedit?.training);
  const text = tables.find((table) => table?.[key])?.[key];
  return text?.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "") ?? otherwise;
}
