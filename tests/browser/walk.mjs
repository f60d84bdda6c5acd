// A newcomer's way on the page:  node walk.mjs URL FOLDER PICTURES
//
// Templates, ComfyUI-SCEdit, the first template, Run, until the picture is there.  FOLDER gets a screenshot of each
// action; the last line printed is what the page said of us, as JSON.
import { launched, newPage, visit } from "./browser.mjs";
import { setWidgets } from "./in_page.mjs";

const [url, folder, title, asked] = process.argv.slice(2);
const browser = await launched();
const problems = [];
const page = await newPage(browser, { width: 1500, height: 900 }, problems);
let number = 0;
const look = (name) => page.screenshot({ path: `${folder}/${++number}_${name}.png` });

await visit(page, url);
await page.waitForTimeout(1500);
await look("first_visit");
if (!(await page.getByText("ComfyUI-SCEdit", { exact: true }).count()))
  await page.evaluate(() => window.app.extensionManager.command.execute("Comfy.BrowseTemplates"));
await page.getByText("ComfyUI-SCEdit", { exact: true }).first().click();
await page.waitForTimeout(2500);
await look("templates");
await page.getByText(title, { exact: true }).first().click();
await page.waitForFunction(() => window.app.graph._nodes.some((node) => node.type.startsWith("SCEdit")));
await page.waitForTimeout(3000);
await look("template");
await page.keyboard.press("Escape"); // what the page says of files that it does not find
// A processor needs hours for what a graphics card does in minutes: sizes and steps alone are made small.
await page.evaluate(setWidgets, JSON.parse(asked));
await page.waitForTimeout(500);
const end = page.evaluate(() => new Promise((resolve) => {
  const api = window.comfyAPI?.api?.api ?? window.app.api;
  api.addEventListener("execution_success", () => resolve("a picture"), { once: true });
  for (const name of ["execution_error", "execution_interrupted"])
    api.addEventListener(name, ({ detail }) => resolve(detail?.exception_message ?? name), { once: true });
}));
await page.getByTestId("queue-button").click();
await page.waitForFunction(() => window.app.graph._nodes.some(({ sceditPanel }) => /step \d/.test(
  sceditPanel?.text?.textContent ?? "")), null, { timeout: 400000 });
await look("training");
const result = await Promise.race([end, page.waitForTimeout(1200000).then(() => "no end within twenty minutes")]);
await page.waitForTimeout(3000);
await look("picture");
console.log(JSON.stringify({ result, said: problems.filter((each) => /scedit/i.test(each)) }));
await browser.close();
