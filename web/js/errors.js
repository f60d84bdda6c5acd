// Shows the sentence of an error of ours where the page does not: newer pages only say that a node has failed.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

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
  if (document.body.innerText.includes(sentence.split("\n")[0])) return;
  const summary = app.graph?.getNodeById?.(Number(node_id))?.title ?? node_type;
  app.extensionManager?.toast?.add({ severity: "error", summary, detail: sentence });
}
