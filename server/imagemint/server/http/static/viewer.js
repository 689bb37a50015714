// One image: its serial number, its URL, and the proof that it can be generated again.

import { byId, copyText, formatCount } from "./dom.js";
import { Failure, fetchPicture, pathOfSerial } from "./api.js";

export class Viewer {
  /** @param choose called with "a" or "b" and the image, for the walk. */
  constructor(choose) {
    this.dialog = byId("viewer");
    byId("copy-serial").addEventListener("click", () => this.copy(this.image.serial, "The serial number"));
    byId("copy-url").addEventListener("click", () => this.copy(this.url, "The URL"));
    byId("walk-from").addEventListener("click", () => this.choose(choose, "a"));
    byId("walk-to").addEventListener("click", () => this.choose(choose, "b"));
    byId("remint").addEventListener("click", () => this.remint());
    byId("previous").addEventListener("click", () => this.step(-1));
    byId("next").addEventListener("click", () => this.step(1));
    byId("close-viewer").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => this.grid.focus(this.at));
    this.dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.step(-1);
      if (event.key === "ArrowRight") this.step(1);
    });
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // the backdrop
    });
  }

  /** Shows the image at a position of a grid. */
  show(grid, at, pixels) {
    this.grid = grid;
    this.at = at;
    this.pixels = pixels;
    this.fill();
    if (!this.dialog.open) this.dialog.showModal();
    byId("remint").focus();
  }

  get url() {
    return new URL(pathOfSerial(this.image.serial), document.baseURI).href;
  }

  step(by) {
    if (!this.grid.images[this.at + by]) return;
    this.at += by;
    this.fill();
  }

  fill() {
    const image = (this.image = this.grid.images[this.at]); // kept: the grid may be filled again meanwhile
    const twin = this.grid.twin?.images[this.at];
    showPicture("viewer-image", image, this.pixels);
    byId("viewer-title").textContent = image.label;
    byId("viewer-caption").textContent = twin ? image.version : "";
    byId("viewer-serial").textContent = image.serial;
    byId("viewer-twin").hidden = !twin;
    if (twin) {
      showPicture("twin-image", twin, this.pixels);
      byId("twin-caption").textContent = twin.version;
    }
    // A URL of its own: those of the grid end when it is filled again.
    URL.revokeObjectURL(byId("download").href);
    byId("download").href = URL.createObjectURL(image.blob);
    byId("download").download = `${image.serial.replaceAll(/[^\w.=-]+/g, "-")}.png`;
    // Not `disabled`, which would take the focus away.
    byId("previous").setAttribute("aria-disabled", String(this.at === 0));
    byId("next").setAttribute("aria-disabled", String(this.at + 1 >= this.grid.images.length));
    this.note("");
  }

  note(text, bad = false) {
    byId("viewer-note").textContent = text;
    byId("viewer-note").classList.toggle("bad", bad);
  }

  async copy(text, what) {
    const done = await copyText(text);
    this.note(done ? `${what} is copied.` : `Copying is not possible here: ${text}`, !done);
  }

  choose(choose, end) {
    choose(end, this.image);
    this.note(`This image is ${end === "a" ? "the start" : "the end"} of the walk.`);
  }

  /** Asks the server for the image by its serial alone, and compares all pixels. */
  async remint() {
    const { image } = this;
    const note = (...said) => image === this.image && this.note(...said); // another one may be shown by then
    note("Generating …");
    try {
      const fresh = await readPixels(await fetchPicture(pathOfSerial(image.serial), true));
      const kept = await readPixels(image.blob);
      const same = kept.filter((pixel, at) => pixel === fresh[at]).length;
      const all = same === kept.length && kept.length === fresh.length;
      const text = `${formatCount(same)} of ${formatCount(kept.length)} pixels are equal.`;
      note(all ? `Generated again: the same image. ${text}` : `Another image! Only ${text}`, !all);
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      note(error.problem.detail, true);
    }
  }
}

function showPicture(id, image, pixels) {
  byId(id).src = image.url;
  byId(id).alt = image.label;
  byId(id).classList.toggle("pixels", pixels);
}

/** Returns the pixels of a picture, a number for each. */
async function readPixels(blob) {
  const bitmap = await createImageBitmap(blob);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const pen = canvas.getContext("2d");
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  return new Uint32Array(pen.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
}
