// The page: connects the form, the grids, the viewer, the walk and the figures.

import { byId, formatCount, formatSeconds } from "./dom.js";
import { Failure, decodePicture, listModels, streamImages } from "./api.js";
import { Controls, drawSeed } from "./controls.js";
import { showFaults } from "./faults.js";
import { Grid } from "./grid.js";
import { Meter } from "./meter.js";
import { Viewer } from "./viewer.js";
import { Walk } from "./walk.js";
import { Translator } from "./translate.js";
import { showCard } from "./card.js";
import { hideNotice, showFailure, tell } from "./notices.js";
import { connectKey, connectTheme, followStatus } from "./status.js";

const SLOW_MS = 1500;
const LOADING_MS = 2500;
const LOADING = "MODEL_STATE_LOADING";
// The topics of notices.
const MODELS = "models";
const IMAGES = "images";

const meter = new Meter();
const walk = new Walk(pickTwo);
const translator = new Translator();
const viewer = new Viewer((end, image) => walk.set(end, image));
let grids = [];
let running = null;
let shown = "";
let loading; // the timer of the next look at the models
let look = 0; // increased with each; an older one may be answered later

const askKey = connectKey(() => loadModels());
connectTheme();
const controls = new Controls(onVersion);

byId("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  mint();
  // On a phone the images are below the form, where faults stay.
  if (byId("form-error").hidden && byId("stage").getBoundingClientRect().top > innerHeight / 2) byId("stage").scrollIntoView();
});
byId("stop").addEventListener("click", () => running?.abort());
// Only in the grid: elsewhere a letter is for the field, the browser or the screen reader.
byId("panes").addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() !== "n" || event.ctrlKey || event.metaKey || event.altKey) return;
  const place = grids.findIndex((grid) => grid.element.contains(event.target));
  const at = grids[place].position;
  byId("seed").value = drawSeed();
  mint();
  grids[place]?.awaitFocus(at);
});
// Its target in the address would take the place of the form's state.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("stage").focus();
});
addEventListener("hashchange", () => {
  const before = shown;
  controls.readAddress();
  if (shown === before && !controls.source) mint();
});
followStatus((state, last) => {
  if (state === "ready" || !last) loadModels();
});

/** Reads the models, and generates images if there are none. */
async function loadModels() {
  if ((await readModels()) && !grids.length && !controls.source) await mint();
}

/**
 * Reads the models; comes again while some are loading. Returns whether they are there.
 *
 * What comes again generates nothing: a request that was refused would be sent each time.
 */
async function readModels() {
  clearTimeout(loading);
  const turn = ++look;
  try {
    const models = await listModels();
    if (turn !== look) return false;
    controls.setModels(models);
    if (models.some(isLoading)) loading = setTimeout(readModels, LOADING_MS);
    if (!models.length) tell(MODELS, "No models", "This server's repository is empty, or your key may use none of its models.");
    else if (controls.version) hideNotice(MODELS);
    else if (isLoading(controls.model)) tell(MODELS, "The models are loading", "The page goes on by itself when one is ready.");
    else tell(MODELS, "The model is not ready", "Its card says why. You can choose another one.");
    return true;
  } catch (error) {
    if (turn === look) fail(error, loadModels);
    return false;
  }
}

const isLoading = (model) => model.versions.some((each) => each.state === LOADING);

function onVersion() {
  showCard(controls.model, controls.version);
  translator.show(controls.name, controls.version, mint, controls.model?.limits);
  const name = `${controls.name}@${controls.version?.version}`;
  if (name === shown) return;
  if (shown) {
    walk.clear();
    if (controls.version && !controls.source) mint();
    // Images stay while their model is loaded again, such as after a restart of the server.
    else if (controls.source || !shown.startsWith(`${controls.name}@`)) clearGrids();
  }
  shown = name;
}

function clearGrids() {
  running?.abort();
  for (const grid of grids) grid.clear();
  grids = [];
  byId("panes").replaceChildren();
  byId("walk").hidden = true;
  byId("progress").textContent = "";
  hideNotice();
}

/** Generates or translates what the form asks for. `attempt` counts retries after refusals. */
async function mint(attempt = 0) {
  if (!controls.version) return;
  const spec = controls.read();
  if (!spec) return;
  running?.abort();
  const aborter = (running = new AbortController());
  hideNotice();
  byId("stop").hidden = false;
  try {
    if (controls.source) await translateSource(spec, aborter.signal);
    else await fillGrids(spec, aborter.signal);
    announce(aborter);
  } catch (error) {
    aborter.abort();
    if (error.name === "AbortError") announce(aborter);
    else if (running === aborter) fail(error, mint, attempt);
  } finally {
    if (running === aborter) {
      running = null;
      if (document.activeElement === byId("stop")) byId("mint").focus({ preventScroll: true });
      byId("stop").hidden = true;
      for (const grid of grids) grid.end();
    }
  }
}

async function translateSource(spec, signal) {
  meter.begin();
  const timing = await translator.run(controls.name, controls.options(spec), signal);
  if (!timing) return;
  meter.add(1, timing);
  meter.end();
}

async function fillGrids(spec, signal) {
  makeGrids(Number(spec.count));
  meter.begin();
  await Promise.all(grids.map((grid) => fill(grid, spec, signal)));
  if (!signal.aborted) meter.end();
}

function makeGrids(count) {
  const versions = [controls.version, controls.other].filter(Boolean);
  for (const grid of grids) grid.clear();
  const pixels = controls.version.manifest.image.width <= 40;
  grids = versions.map((version) => {
    const grid = new Grid(`${controls.name}@${version.version}`, (at) => {
      if (!walk.take(grid.images[at])) viewer.show(grid, at, pixels);
    });
    grid.version = version;
    grid.begin(count, version.manifest.image);
    return grid;
  });
  if (grids.length > 1) [grids[0].twin, grids[1].twin] = [grids[1], grids[0]];
  byId("panes").replaceChildren(...grids.map((grid) => grid.element));
  byId("walk").hidden = false;
}

/** Fills a grid from a stream; says so if it is slow to begin. */
async function fill(grid, spec, signal) {
  const { model, version, manifest } = { model: controls.name, version: grid.version.version, manifest: grid.version.manifest };
  const slow = setTimeout(() => {
    byId("progress").textContent = "Waiting in the queue of the model …";
  }, SLOW_MS);
  try {
    for await (const chunk of streamImages(model, { ...spec, version }, signal)) {
      clearTimeout(slow);
      if (signal.aborted) return;
      const { pictures, images } = chunk.batch;
      images.forEach((image, at) => {
        const blob = decodePicture(pictures[at]);
        grid.add({
          blob, model, serial: image.serial, url: URL.createObjectURL(blob),
          version: `version ${version}`, label: nameImage(image, manifest), pixels: manifest.image.width <= 40,
        });
      });
      if (grid === grids[0]) meter.add(images.length, chunk.timing);
      byId("progress").textContent = `${formatCount(grid.images.length)} of ${formatCount(Number(spec.count))} images`;
    }
    if (grid === grids[0]) proposeWalk(grid);
  } finally {
    clearTimeout(slow);
  }
}

function nameImage(image, manifest) {
  if (image.caption) return `“${image.caption}”`;
  const label = manifest.classLabels?.[image.classId];
  return label === undefined ? `Image ${image.index}` : `${/^\d+$/.test(label) ? "Class " : ""}${label}, image ${image.index}`;
}

/** Puts the first two images into the slots of the walk, if they are empty. */
function proposeWalk(grid) {
  if (walk.ends.a || grid.images.length < 2) return;
  walk.set("b", grid.images[1]);
  walk.set("a", grid.images[0]);
}

function pickTwo() {
  const images = grids[0]?.images ?? [];
  if (images.length < 2) return null;
  const a = Math.floor(Math.random() * images.length);
  const b = (a + 1 + Math.floor(Math.random() * (images.length - 1))) % images.length;
  return [images[a], images[b]];
}

/** Says how a request ended, unless another one has taken its place. */
function announce({ signal }) {
  if (!controls.version || controls.source || signal !== running?.signal) return;
  const images = grids.reduce((sum, grid) => sum + grid.images.length, 0);
  const seconds = (performance.now() - meter.began) / 1e3;
  const end = signal.aborted ? "Stopped after" : "Generated";
  byId("progress").textContent = `${end} ${formatCount(images)} images in ${formatSeconds(seconds)}. Press N in the grid for others.`;
}

function fail(error, again, attempt) {
  if (!(error instanceof Failure)) throw error;
  if (!controls.models.length) byId("models").textContent = "No models to show.";
  if (grids.every((grid) => !grid.images.length)) {
    grids = [];
    byId("panes").replaceChildren();
  }
  byId("walk").hidden = !grids.length;
  byId("progress").textContent = "";
  // One alert: at the form if its fields are wrong, otherwise above the images.
  if (showFaults(error.problem.violations ?? [])) hideNotice();
  else showFailure(error.problem, { retry: again, askKey }, again === loadModels ? MODELS : IMAGES, attempt);
}
