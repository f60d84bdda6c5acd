// The panel on the node Train SCEdit Tuner: what the training says, the curve of its loss, its latest preview.
// Messages go to every page (nodes/train_page.py); a page that is opened later asks for what it has missed.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const NODE = "SCEditTrainTuner";
const MESSAGE = "scedit.training";
const COLORS = { running: "#6cf", finished: "#6c6", stopped: "#fc6", failed: "#f77" };
const CURVE = { width: 200, height: 48 };

app.registerExtension({
  name: "SCEdit.Training",
  setup() {
    api.addEventListener(MESSAGE, (event) => show(event.detail));
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) addPanel(node);
  },
  afterConfigureGraph() { // a workflow was opened, at the start of the page too
    catchUp();
  },
});

async function catchUp() {
  const answer = await api.fetchApi("/scedit/training");
  if (answer.ok) for (const training of await answer.json()) show(training);
}

// A training belongs to the node that has its tuner's name; the node that started it may be in a graph that was closed.
function show(training) {
  for (const node of nodesOf(app.graph)) {
    if (node.comfyClass !== NODE || !node.sceditPanel) continue;
    const name = node.widgets?.find((widget) => widget.name === "name")?.value ?? "";
    if (name.trim().replace(/\.safetensors$/, "").replaceAll("\\", "/") === training.name) fill(node, training);
  }
}

function nodesOf(graph) {
  return (graph?._nodes ?? []).flatMap((node) => [node, ...(node.subgraph ? nodesOf(node.subgraph) : [])]);
}

function addPanel(node) {
  const panel = document.createElement("div");
  panel.className = "scedit-training";
  panel.style.cssText = "display:none;flex-direction:column;gap:4px;width:100%;height:100%;overflow:hidden;"
    + "padding:4px;box-sizing:border-box;font:12px sans-serif;color:var(--input-text,#ddd)";
  const text = document.createElement("div");
  text.className = "scedit-training-text";
  text.style.cssText = "flex:1;max-height:96px;overflow:auto;user-select:text;overflow-wrap:anywhere";
  // The page's own button serves the page that queued the graph; this one serves a page that was opened later, too.
  const stop = document.createElement("button");
  stop.className = "scedit-training-stop";
  stop.textContent = "Stop";
  stop.title = "Stop after this step, with a checkpoint to go on from";
  stop.style.cssText = "flex:none;align-self:flex-start;padding:1px 8px;font:inherit;cursor:pointer";
  stop.addEventListener("click", () => {
    stop.disabled = true; // a second interrupt would end the training without a checkpoint
    api.interrupt(null);
  });
  const head = document.createElement("div");
  head.style.cssText = "flex:none;display:flex;gap:8px";
  head.append(text, stop);
  const remarks = document.createElement("ul"); // what the trainer says of pictures and settings before its first step
  remarks.className = "scedit-training-remarks";
  remarks.style.cssText = "flex:none;display:none;max-height:64px;overflow:auto;margin:0;padding-left:16px;"
    + "user-select:text;overflow-wrap:anywhere";
  const curve = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  curve.setAttribute("viewBox", `0 0 ${CURVE.width} ${CURVE.height}`);
  curve.setAttribute("preserveAspectRatio", "none");
  curve.style.cssText = `flex:none;display:none;width:100%;height:${CURVE.height}px;background:#0003`;
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("fill", "none");
  line.setAttribute("vector-effect", "non-scaling-stroke");
  line.setAttribute("stroke-width", "1.5");
  curve.append(line);
  const picture = document.createElement("img");
  picture.style.cssText = "display:none;flex:1;min-height:0;width:100%;object-fit:contain";
  panel.append(head, remarks, curve, picture);
  const widget = node.addDOMWidget("training", "scedit_training", panel, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => node.sceditPanel.height,
  });
  widget.serialize = false; // neither in the saved workflow nor in the prompt
  node.sceditPanel = { panel, text, stop, remarks, curve, line, picture, height: 0 };
}

function fill(node, training) {
  const parts = node.sceditPanel;
  const color = COLORS[training.state] ?? COLORS.running;
  parts.panel.style.display = "flex";
  parts.text.textContent = training.text;
  const running = training.state === "running";
  parts.text.style.color = running ? "" : color;
  parts.stop.style.display = running ? "block" : "none";
  if (!running) parts.stop.disabled = false;
  const said = training.remarks ?? [];
  parts.remarks.style.display = said.length ? "block" : "none";
  parts.remarks.replaceChildren(...said.map((each) => Object.assign(document.createElement("li"), { textContent: each })));
  const drawn = training.losses.length > 1;
  parts.curve.style.display = drawn ? "block" : "none";
  if (drawn) {
    parts.line.setAttribute("points", points(training.losses));
    parts.line.setAttribute("stroke", color);
    parts.curve.dataset.points = training.losses.length;
  }
  const shown = training.preview != null;
  parts.picture.style.display = shown ? "block" : "none";
  if (shown) {
    const query = new URLSearchParams({ name: training.name, step: training.preview });
    const address = api.apiURL(`/scedit/training/preview?${query}`);
    if (parts.picture.getAttribute("src") !== address) parts.picture.src = address;
  }
  const height = 44 + (said.length ? 68 : 0) + (drawn ? CURVE.height + 4 : 0) + (shown ? 220 : 0);
  if (height > parts.height) { // the node grows with what it has to show, and then stays as the user makes it
    parts.height = height;
    const wanted = node.computeSize();
    node.setSize([Math.max(node.size[0], wanted[0], 320), Math.max(node.size[1], wanted[1])]);
  }
  app.graph.setDirtyCanvas(true, true);
}

function points(losses) {
  const [first, last] = [losses[0][0], losses.at(-1)[0]];
  const values = losses.map(([, loss]) => loss);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return losses.map(([step, loss]) => {
    const x = (step - first) / Math.max(last - first, 1) * CURVE.width;
    const y = (1 - (loss - low) / Math.max(high - low, 1e-9)) * (CURVE.height - 6) + 3;
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  }).join(" ");
}
