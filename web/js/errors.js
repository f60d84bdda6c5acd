// Shows the sentence of an error of ours where the page does not: newer pages only say that a node has failed.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { nodesOf } from "./nodes_of.js";

const OURS = "SCEdit"; // what nodes/sentences.py calls the pack's errors; a sampler can raise one too
const PAGE_SECONDS = 0.7; // until the page has shown its own notice

if (!app.extensions?.some(({ name }) => name === "SCEdit.Errors")) app.registerExtension({ // a second copy of the pack
  name: "SCEdit.Errors",
  setup() {
    api.addEventListener("execution_error", ({ detail }) => {
      if (detail?.exception_type === OURS) setTimeout(() => tell(detail), 1000 * PAGE_SECONDS);
    });
  },
});

function tell({ node_id, node_type, exception_message }) {
  const sentence = exception_message.trim();
  if (isInSight(sentence.split("\n")[0])) return;
  const node = new Map(nodesOf(app.graph)).get(String(node_id)); // of another workflow, where that has been opened since
  const { title } = node?.comfyClass === node_type ? node : window.LiteGraph?.registered_node_types?.[node_type] ?? {};
  app.extensionManager?.toast?.add({ severity: "error", summary: title ?? node_type, detail: sentence });
}

// Whether a text can be read in the window.  A node that the page draws as an element has its text far outside as well.
function isInSight(text) {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    if (!texts.currentNode.data.includes(text)) continue;
    const { left, top, right, bottom, width } = texts.currentNode.parentElement.getBoundingClientRect();
    if (width > 0 && right > 0 && bottom > 0 && left < innerWidth && top < innerHeight) return true; // hidden: all are 0
  }
  return false;
}
