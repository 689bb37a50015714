// Pictures cut from the sample sheet of a translating model: source, result and truth in turn.

import { fetchSamples } from "./api.js";

const GAP = 2;
const COLUMNS = 12;
const EVERY = 3;
const SHOWN = 4;
// What the exporter writes into the sheets that are laid out like this, and how far to look for it.
const MARK = "source, result, truth";
const HEAD_BYTES = 4096;

/** Returns up to four sources of the sample sheet, as PNG; none if there is no such sheet. */
export const cutSources = (model, version, scale) => cut(model, version, 0, scale);

/** Returns up to four results of the sample sheet, as PNG; none if there is no such sheet. */
export const cutResults = (model, version) => cut(model, version, 1, 1);

async function cut(model, version, column, scale) {
  const sheet = await fetchSamples(model, version).catch(() => null); // the page works without
  if (!sheet || !(await sheet.slice(0, HEAD_BYTES).text()).includes(MARK)) return [];
  const picture = await createImageBitmap(sheet);
  const step = (picture.width - GAP) / COLUMNS;
  // Tiles are squares unless the sheet says otherwise: rows of another height are not cut.
  if (!Number.isInteger(step) || (picture.height - GAP) % step) return [];
  const places = Array.from({ length: SHOWN }, (_, at) => GAP + (column + at * EVERY) * step);
  return Promise.all(places.map((x) => cutTile(picture, x, step - GAP, (step - GAP) / scale)));
}

/** Returns a tile of the first row; a source that the sheet shows enlarged gets its own size back. */
function cutTile(picture, x, side, size) {
  const canvas = new OffscreenCanvas(size, size);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = false;
  pen.drawImage(picture, x, GAP, side, side, 0, 0, size, size);
  return canvas.convertToBlob({ type: "image/png" });
}
