// What page.mjs has the page do.  Each function is sent to the page by itself, so none uses anything outside of it.

// What is on the canvas: nodes whose type is unknown, and the links as [from node, slot, to node, input name].
export function look() {
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
    titles: graph._nodes.map((node) => node.title),
    missing: graph._nodes.filter((node) => !(node.type in known) || node.has_errors).map((node) => node.type),
    links,
  };
}

// Drops a workflow on the canvas, as a file from the desktop.
export function drop({ workflow, name }) {
  window.app.graph.clear();
  const files = new DataTransfer();
  files.items.add(new File([JSON.stringify(workflow)], `${name}.json`, { type: "application/json" }));
  const event = new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
  window.app.canvas.canvas.dispatchEvent(event);
}

// Gives widgets these values, by node type or id, and by name.
export function setWidgets(values) {
  for (const node of window.app.graph._nodes) {
    const wanted = { ...values[node.type], ...values[node.id] };
    for (const widget of node.widgets ?? []) if (widget.name in wanted) widget.value = wanted[widget.name];
  }
}

// One node alone on the canvas, selected.
export function select(type) {
  const { graph, canvas } = window.app;
  graph.clear();
  const node = window.LiteGraph.createNode(type);
  graph.add(node);
  canvas.ds.scale = 1;
  node.pos = [300 - canvas.ds.offset[0], 300 - canvas.ds.offset[1]];
  if (canvas.select) canvas.select(node);
  else canvas.selectNode(node);
  canvas.onSelectionChange?.(canvas.selected_nodes);
  canvas.setDirty(true, true);
}

// The end of what is being run: its error's text or null, and the pictures made, as [node id, file name].
export function ended() {
  const api = window.comfyAPI?.api?.api ?? window.app.api;
  const made = [];
  api.addEventListener("executed", ({ detail }) => {
    for (const image of detail.output?.images ?? []) made.push([String(detail.node), image.filename]);
  });
  return new Promise((resolve) => {
    api.addEventListener("execution_success", () => resolve({ error: null, made }), { once: true });
    for (const name of ["execution_error", "execution_interrupted"])
      api.addEventListener(name, ({ detail }) => resolve({ error: detail?.exception_message ?? name, made }),
        { once: true });
  });
}

// Whether the nodes show these pictures already.
export function areShown(made) {
  return made.every(([id, file]) => window.app.graph.getNodeById(Number(id))?.imgs?.some((image) =>
    image.naturalWidth > 0 && image.src.includes(encodeURIComponent(file))));
}

// The pictures that nodes show, as [node id, width, height, address].
export function shown() {
  return window.app.graph._nodes.flatMap((node) =>
    (node.imgs ?? []).map((image) => [String(node.id), image.naturalWidth, image.naturalHeight, image.src]));
}

// Opens an API graph and puts its nodes into columns from left to right, after a column for the note.
export async function layOut({ api, note, name, folded = [], run = false }) {
  const conditions = ["SCEditCanny", "SCEditColorPalette", "SCEditCompletion", "SCEditSoftEdge", "SCEditDepth",
    "SCEditPose", "SCEditSegmentation"];
  const { app, LiteGraph } = window;
  app.nodeOutputs = {}; // else nodes show what others of their number have made
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
  // What comes after the last sampler stands below it, so that the whole graph can be read at once.
  const samplers = graph._nodes.filter((node) => node.type === "KSampler").map((node) => depth.get(node.id));
  const sampler = samplers.length ? Math.max(...samplers) : Infinity;
  for (const node of graph._nodes)
    if (depth.get(node.id) > sampler) depth.set(node.id, sampler);
  const columns = [];
  for (const node of graph._nodes) (columns[depth.get(node.id)] ??= []).push(node);
  const trainings = ["SCEditTrainTuner", "SCEditTrainOnModel", "SCEditDistillControlNet"];
  const place = (node) => (node.type === "KSampler" ? 0 : trainings.includes(node.type) ? 3
    : folded.includes(String(node.id)) ? 1 : 2); // a training's panel grows downwards
  for (const column of columns) column.sort((one, other) => place(one) - place(other));
  // A training that would begin out of sight has a column of its own.
  const long = columns.findIndex((column) => column.length > 3 && trainings.includes(column.at(-1).type));
  if (long >= 0) columns.splice(long + 1, 0, [columns[long].pop()]);
  let x = note ? 430 : 40;
  columns.forEach((column) => {
    let y = 60;
    for (const node of column) {
      const wanted = node.computeSize();
      node.setSize([Math.max(300, wanted[0]), Math.max(wanted[1], node.size[1])]);
      const seed = node.widgets?.find((widget) => widget.name === "control_after_generate");
      if (seed) seed.value = "fixed";
      if (node.type === "CLIPTextEncode") node.setSize([300, 120]);
      if (["SaveImage", "PreviewImage", "LoadImage", "MaskPreview"].includes(node.type)) node.setSize([300, 320]);
      if (node.type === "PreviewAny") node.setSize([420, 300]);
      if (trainings.includes(node.type)) node.setSize([360, wanted[1]]); // as wide as its panel will be
      if (node.type === "SCEditTrainTuner" && run) node.setSize([420, wanted[1] + 330]); // its panel
      // Condition nodes show what they make, in a graph that is shown alone only after a run.
      if ((run || note) && conditions.includes(node.type)) node.setSize([300, wanted[1] + 230]);
      const fold = folded.includes(String(node.id));
      if (fold) node.collapse();
      node.pos = [x, y];
      y += (fold ? 0 : node.size[1]) + (fold ? 50 : 70);
    }
    const wide = column.filter((node) => !node.flags.collapsed).map((node) => node.size[0]);
    x += Math.max(200, ...wide) + 60;
  });
  if (!note) return;
  const sheet = LiteGraph.createNode("MarkdownNote");
  graph.add(sheet);
  sheet.pos = [40, 60];
  sheet.setSize([340, 560]);
  sheet.widgets[0].value = note;
}

// These nodes one below the other, and all others out of sight.
export function stack(ids) {
  const { graph } = window.app;
  let y = 0;
  for (const node of graph._nodes) if (!ids.includes(String(node.id))) node.pos = [node.pos[0] + 20000, node.pos[1]];
  for (const id of ids) {
    const node = graph.getNodeById(Number(id));
    node.flags.collapsed = false;
    node.setSize([Math.max(300, node.size[0]), Math.max(node.size[1], node.computeSize()[1])]);
    node.pos = [0, y];
    y += node.size[1] + 50;
  }
}

// The whole graph on the screen, or some of its nodes, below the top bar and beside the side bar.
export function fitView({ width, height, alone }) {
  const { graph, canvas } = window.app;
  const boxes = graph._nodes.filter((node) => !alone || alone.includes(String(node.id))).map((node) => [node.pos[0], node.pos[1] - 30,
    node.pos[0] + (node.flags.collapsed ? node._collapsed_width ?? 150 : node.size[0]),
    node.pos[1] + (node.flags.collapsed ? 0 : node.size[1])]);
  const [left, top] = [0, 1].map((i) => Math.min(...boxes.map((box) => box[i])));
  const [right, bottom] = [2, 3].map((i) => Math.max(...boxes.map((box) => box[i])));
  const scale = Math.min((width - 120) / (right - left), (height - 220) / (bottom - top), 1);
  canvas.ds.scale = scale;
  canvas.ds.offset[0] = 80 / scale - left;
  canvas.ds.offset[1] = 150 / scale - top;
  canvas.setDirty(true, true);
}

// Where the nodes, or some of them, are on the screen, with a margin.
export function box(alone) {
  const { canvas } = window.app;
  const graph = { _nodes: window.app.graph._nodes.filter((node) => !alone || alone.includes(String(node.id))) };
  const place = canvas.canvas.getBoundingClientRect();
  const { scale, offset } = canvas.ds;
  const margin = 16;
  const at = (position, i) => (position + offset[i]) * scale + (i ? place.top : place.left);
  const left = Math.min(...graph._nodes.map((node) => at(node.pos[0], 0))) - margin;
  const top = Math.min(...graph._nodes.map((node) => at(node.pos[1] - 30, 1))) - margin;
  const right = Math.max(...graph._nodes.map((node) =>
    at(node.pos[0] + (node.flags.collapsed ? node._collapsed_width ?? 150 : node.size[0]), 0))) + margin;
  const bottom = Math.max(...graph._nodes.map((node) => at(node.pos[1] + (node.flags.collapsed ? 0 : node.size[1]), 1)))
    + margin;
  return { x: left, y: top, width: right - left, height: bottom - top };
}
