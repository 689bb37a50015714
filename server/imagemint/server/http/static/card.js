// The model card: what the model is, and its measured quality.

import { byId, formatCount, make, makePicture } from "./dom.js";
import { Failure, fetchCard, fetchSamples } from "./api.js";

const MOST_ROWS = 8;

/** Shows the card of a version. */
export function showCard(model, version) {
  const place = byId("card");
  if (!version) {
    const reason = model?.versions.map((each) => each.reason).find(Boolean);
    place.replaceChildren(make("p", { class: "muted" }, reason ? `Not ready: ${reason}` : "Not ready yet."));
    return;
  }
  const { manifest } = version;
  const shape = manifest.image;
  const facts = [
    ["Serial prefix", `${model.name}@${version.version}`],
    ["Image", `${shape.width} × ${shape.height}, ${shape.channels === 1 ? "gray" : "colour"}`],
    ["Latent", manifest.latent ? `${manifest.latent.zDim} numbers` : "none"],
    ["Runs on", `${version.executionProvider.replace("ExecutionProvider", "")}, ${version.variant}`],
    ["Licence", manifest.license || "not stated"],
  ];
  place.replaceChildren(
    make("p", {}, make("strong", {}, manifest.title || model.name)),
    makeTable(["", ""], facts),
    makeFigures(manifest.evaluations ?? []),
    makeDetails(nameSamples(manifest).title, () => makeSamples(model, version)),
    makeDetails("The whole card", () => makeText(model, version)),
  );
}

function makeFigures(evaluations) {
  if (!evaluations.length) return make("p", { class: "muted small" }, "No quality figures.");
  const rows = evaluations.slice(0, MOST_ROWS).map((each) => [
    each.metric.replaceAll("_", " "), formatFigure(each.value), each.reference === undefined ? "" : formatFigure(each.reference),
  ]);
  const samples = formatCount(Number(evaluations[0].sampleSize));
  return make("div", {}, makeTable(["Quality", "model", "real"], rows),
    make("p", { class: "muted small" }, `Of ${samples} images. “real”: the same figure for real images.`));
}

function formatFigure(value) {
  return Math.abs(value) >= 100 ? value.toFixed(1) : String(Number(value.toPrecision(4)));
}

function makeTable(head, rows) {
  const body = make("tbody", {}, ...rows.map(([name, ...cells]) =>
    make("tr", {}, make("th", { scope: "row" }, name), ...cells.map((cell) => make("td", {}, cell)))));
  const top = head.some(Boolean)
    ? make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)))) : null;
  return make("table", {}, top, body);
}

/** Returns details whose content `load` returns when they are first opened; after a failure, when opened again. */
function makeDetails(title, load) {
  const body = make("div");
  const details = make("details", {}, make("summary", {}, title), body);
  let state = "empty";
  details.addEventListener("toggle", async () => {
    if (!details.open || state !== "empty") return;
    state = "loading";
    try {
      body.replaceChildren(await load());
      state = "full";
    } catch (error) {
      state = "empty";
      if (!(error instanceof Failure)) throw error;
      body.replaceChildren(make("p", { class: "muted small", role: "status" }, error.problem.detail));
    }
  });
  return details;
}

/** Returns the heading of the sample sheet, and what its order is, for those who do not see it. */
function nameSamples({ source, classLabels = [] }) {
  if (source) return { title: "Samples of translations", order: ": sources with their results" };
  return classLabels.length ? { title: "Samples of every class", order: ": each row is one class" } : { title: "Samples", order: "" };
}

async function makeSamples(model, version) {
  const sheet = await fetchSamples(model.name, version.version);
  if (!sheet) return make("p", { class: "muted small" }, "The bundle has no samples.");
  return makePicture(sheet, { alt: `Samples of ${model.name}${nameSamples(version.manifest).order}` });
}

async function makeText(model, version) {
  const text = await fetchCard(model.name, version.version);
  const blocks = text === null ? [make("p", { class: "muted" }, "The bundle has no card.")] : parseMarkdown(text);
  return make("div", { class: "card-text", tabindex: "0", role: "region", "aria-label": "Card" }, ...blocks);
}

/** Returns elements for the Markdown of our cards: headings, lists, tables, code and paragraphs. */
function parseMarkdown(text) {
  return text.split(/\n{2,}/).map((block) => {
    const lines = block.trim().split("\n");
    if (/^!\[/.test(lines[0]) || !lines[0]) return null;
    if (/^#+ /.test(lines[0])) return make("p", {}, make("strong", {}, lines[0].replace(/^#+ /, "")));
    if (lines[0].startsWith("```")) return make("pre", {}, lines.slice(1, -1).join("\n"));
    if (lines[0].startsWith("|")) {
      const cells = lines.filter((line) => !/^[|\s:-]+$/.test(line)).map((line) => line.slice(1, -1).split("|").map((cell) => cell.trim()));
      return makeTable(cells[0], cells.slice(1));
    }
    if (lines[0].startsWith("- ")) {
      return make("ul", {}, ...block.trim().split(/\n(?=- )/).map((line) => make("li", {}, plain(line.slice(2)))));
    }
    return make("p", {}, plain(lines.join(" ")));
  }).filter(Boolean);
}

const plain = (text) => text.replaceAll(/[`*]/g, "").replaceAll(/\[([^\]]+)\]\([^)]+\)/g, "$1");
