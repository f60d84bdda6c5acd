// How the panel of a training looks; training.js says what is on it.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const COLORS = { running: "#6cf", finished: "#6c6", stopped: "#fc6", failed: "#f99" }; // with black on them
const CURVE = { width: 200, height: 48 };
const STYLE = {
  panel: "display:none;flex-direction:column;gap:4px;width:100%;height:100%;overflow:hidden;padding:6px;"
    + "box-sizing:border-box;border-radius:4px;font:12px sans-serif;color:var(--input-text,#ddd);"
    + "background:var(--comfy-input-bg,#222)",
  head: "flex:none;display:flex;gap:8px;align-items:center",
  state: "flex:none;padding:0 6px;border-radius:8px;color:#000",
  name: "flex:1;min-width:0;overflow:hidden;text-overflow:ellipsis;white-space:nowrap",
  stop: "flex:none;padding:1px 8px;font:inherit;color:inherit;background:none;border:1px solid;border-radius:4px;"
    + "cursor:pointer",
  text: "flex:none;max-height:88px;overflow:auto;user-select:text;overflow-wrap:anywhere;white-space:pre-wrap",
  verdict: "flex:none;display:none;max-height:88px;overflow:auto;user-select:text;overflow-wrap:anywhere",
  remarks: "flex:none;display:none;max-height:64px;overflow:auto;margin:0;padding-left:16px;user-select:text;"
    + "overflow-wrap:anywhere",
  files: "flex:none;max-height:64px;overflow:auto;user-select:text;overflow-wrap:anywhere",
  curve: `flex:none;display:none;width:100%;height:${CURVE.height}px`,
  picture: "display:none;flex:1;min-height:0;width:100%;object-fit:contain",
};

// said(key, values, otherwise): a text in the page's language.  stop(training): what the button does; gives whether it did.
export function addPanel(node, said, stop) {
  const parts = { height: 0, said };
  for (const [name, tag] of Object.entries({ panel: "div", head: "div", state: "span", name: "span", stop: "button",
    text: "div", verdict: "div", remarks: "ul", files: "div", picture: "img" })) {
    parts[name] = document.createElement(tag);
    parts[name].style.cssText = STYLE[name];
    parts[name].className = name === "panel" ? "scedit-training" : `scedit-training-${name}`;
  }
  parts.stop.addEventListener("click", async () => {
    parts.stop.disabled = true;
    if (!await stop(parts.training)) parts.stop.disabled = false;
  });
  handToCanvas(parts.panel);
  parts.curve = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  parts.curve.setAttribute("viewBox", `0 0 ${CURVE.width} ${CURVE.height}`);
  parts.curve.setAttribute("preserveAspectRatio", "none");
  parts.curve.style.cssText = STYLE.curve;
  parts.line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  for (const [key, value] of Object.entries({ fill: "none", stroke: "currentColor", "stroke-width": "1.5",
    "vector-effect": "non-scaling-stroke" })) parts.line.setAttribute(key, value);
  parts.curve.append(parts.line);
  parts.head.append(parts.state, parts.name, parts.stop);
  parts.panel.append(parts.head, parts.text, parts.verdict, parts.remarks, parts.files, parts.curve, parts.picture);
  const widget = node.addDOMWidget("training", "scedit_training", parts.panel, {
    serialize: false,
    hideOnZoom: false,
    hideInPanel: true, // else it stays as narrow as a node's properties once they have been looked through
    getMinHeight: () => parts.height,
  });
  widget.serialize = false; // neither in the saved workflow nor in the prompt
  node.sceditPanel = parts;
}

const TO_CANVAS = { wheel: "processMouseWheel", pointerdown: "processMouseDown", pointermove: "processMouseMove",
  pointerup: "processMouseUp" };

// The wheel and the middle button do over the panel what they do over the canvas, but for the wheel over a part that
// scrolls.  Where nodes are elements the page sees to it.
function handToCanvas(panel) {
  const scrolls = (part) => part.scrollHeight > part.clientHeight + 1 && getComputedStyle(part).overflowY === "auto";
  for (const [type, method] of Object.entries(TO_CANVAS)) panel.addEventListener(type, (event) => {
    const wanted = type === "wheel"
      ? event.ctrlKey || ![...panel.children].some((part) => part.contains(event.target) && scrolls(part))
      : event.button === 1 || event.buttons & 4;
    if (wanted && !window.LiteGraph?.vueNodesMode) app.canvas[method](event);
  });
}

export function fill(node, training) {
  const parts = node.sceditPanel;
  const { said } = parts;
  parts.training = training;
  parts.panel.style.display = "flex";
  parts.state.textContent = said(`state_${training.state}`, {}, training.state);
  parts.state.style.background = COLORS[training.state] ?? COLORS.running;
  parts.name.textContent = `${training.name}  ${new Date(1000 * training.changed).toLocaleTimeString()}`;
  parts.stop.textContent = said("stop", {}, "Stop");
  parts.stop.title = said("stop_title");
  const running = training.state === "running";
  parts.stop.style.display = running ? "block" : "none";
  if (!running) parts.stop.disabled = false;
  parts.text.textContent = sentence(training, said);
  const verdict = training.verdict.map(([key, values, english]) => said(`verdict_${key}`, values, english)).join(" ");
  parts.verdict.style.display = verdict ? "block" : "none";
  parts.verdict.textContent = verdict;
  const remarks = training.remarks ?? [];
  parts.remarks.style.display = remarks.length ? "block" : "none";
  parts.remarks.replaceChildren(...remarks.map((each) => line("li", each)));
  const files = Object.entries(training.files ?? {}).filter(([key]) => key !== "tuner" || training.state === "finished");
  parts.files.style.display = files.length ? "block" : "none";
  parts.files.replaceChildren(...files.map(([key, path]) => line("div", `${said(`file_${key}`, {}, key)}: ${path}`)));
  const drawn = training.losses.length > 1;
  parts.curve.style.display = drawn ? "block" : "none";
  if (drawn) {
    parts.line.setAttribute("points", points(training.losses));
    parts.curve.dataset.points = training.losses.length;
  }
  const shown = training.preview != null;
  parts.picture.style.display = shown ? "block" : "none";
  if (shown) {
    const query = new URLSearchParams({ name: training.name, step: training.preview, started: training.started });
    const address = api.apiURL(`/scedit/training/preview?${query}`);
    if (parts.picture.getAttribute("src") !== address) parts.picture.src = address;
  }
  const long = parts.text.textContent.length > 60;
  grow(node, 46 + (long ? 76 : 16) + (verdict ? 76 : 0) + (remarks.length ? 68 : 0) + 22 * files.length
    + (drawn ? CURVE.height + 4 : 0) + (shown ? 220 : 0));
}

// The server has been started anew, and with it the training has ended.
export function lost(node) {
  const { training } = node.sceditPanel;
  fill(node, { ...training, state: "stopped", words: [["lost", {}]], text: "" });
}

function sentence(training, said) {
  const texts = (training.words ?? []).map(([key, values]) => (key === null ? values : said(key, values)));
  return texts.every(Boolean) && texts.length ? texts.join(said("join", {}, ", ")) : training.text;
}

function line(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}

// The node grows with what it has to show, and then stays as the user makes it.
function grow(node, height) {
  const parts = node.sceditPanel;
  if (height > parts.height) {
    parts.height = height;
    const wanted = node.computeSize();
    node.setSize([Math.max(node.size[0], wanted[0], 360), Math.max(node.size[1], wanted[1])]);
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
