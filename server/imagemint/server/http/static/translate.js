// The drop zone: a source, and its translation beside it.

import { byId, formatSeconds, make, makePicture } from "./dom.js";
import { translate } from "./api.js";
import { cutSources } from "./examples.js";

export class Translator {
  constructor() {
    this.files = [];
    this.mask = null;
    this.turn = 0; // increased when an answer that is under way becomes out of date
    const drop = byId("drop");
    byId("source-file").addEventListener("change", (event) => this.take([...event.target.files]));
    byId("mask-file").addEventListener("change", (event) => {
      this.mask = event.target.files[0] ?? null;
      this.clearResult();
      this.announce();
      if (!this.missing) this.ready();
    });
    for (const name of ["dragenter", "dragover"]) {
      drop.addEventListener(name, (event) => {
        event.preventDefault();
        drop.classList.add("over");
      });
    }
    for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      this.takeOther([...event.dataTransfer.files]);
    });
  }

  /**
   * Shows the zone for a model that translates; hides it for others.
   *
   * @param model name of the model.
   * @param version the version, with its manifest; undefined for none.
   * @param ready called when a source is complete.
   * @param limits limits of a request to the model.
   */
  show(model, version, ready, limits) {
    const source = version?.manifest.source ?? null;
    this.source = source;
    this.limits = limits;
    this.ready = ready;
    byId("translate").hidden = !source;
    if (!source) return;
    const shown = `${model}@${version.version}`;
    if (shown !== this.shown) this.clearResult(); // it is of another model
    this.shown = shown;
    this.showExamples(model, version.version);
    byId("mask-field").hidden = !source.mask;
    byId("source-file").multiple = source.frames > 1;
    const frames = source.frames > 1 ? `${source.frames} pictures, the oldest first, ` : "";
    byId("drop-hint").textContent = `PNG, JPEG or WebP. The model takes ${frames}${describeSize(source)}.`;
    this.announce();
  }

  /** Offers sources of the model's own sample sheet, for those who have no picture at hand. */
  async showExamples(model, version) {
    const place = byId("examples");
    const key = `${model}@${version}`;
    if (place.dataset.model === key) return;
    place.dataset.model = key;
    place.hidden = true;
    const { frames, mask, scale = 1 } = this.source;
    const sources = frames > 1 || mask ? [] : await cutSources(model, version, scale);
    if (place.dataset.model !== key || !sources.length) return;
    const buttons = sources.map((blob, at) => {
      const name = `example-${at + 1}.png`;
      const image = makePicture(blob, { alt: "", class: "pixels" });
      const onclick = () => this.takeOther([new File([blob], name, { type: "image/png" })]);
      return make("button", { type: "button", class: "example", "aria-label": `Example ${at + 1}`, onclick }, image);
    });
    place.replaceChildren(make("span", { class: "muted small" }, "Or try one of these"), ...buttons);
    place.hidden = false;
  }

  /**
   * Takes the files of a source, and translates them if nothing is missing.
   *
   * They are sorted by name, frame 2 before frame 10: the order of a file dialog is not the visitor's.
   */
  take(files) {
    if (!files.length) return;
    this.files = files.toSorted((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    const last = this.files.at(-1);
    this.showPicture("source", last, this.files.map((file) => file.name).join(", "));
    this.clearResult();
    this.announce();
    if (!this.missing) this.ready();
  }

  /** Takes files that do not come from the field, which would name and keep those before. */
  takeOther(files) {
    if (files.length) byId("source-file").value = "";
    this.take(files);
  }

  /** What the visitor still has to choose; empty for nothing. */
  get missing() {
    const { frames, mask } = this.source;
    if (!this.files.length) return frames > 1 ? `Choose ${frames} pictures.` : "Choose a picture.";
    if (this.files.length !== frames) return `${this.files.length} pictures chosen; the model takes ${frames}.`;
    const bytes = [...this.files, ...(mask && this.mask ? [this.mask] : [])].reduce((sum, file) => sum + file.size, 0);
    const most = this.limits?.maxRequestBytes ?? 0;
    if (most && bytes > most) {
      return `${formatMegabytes(bytes)} chosen; the server takes up to ${formatMegabytes(most)}. Choose a smaller file.`;
    }
    return mask && !this.mask ? "Choose a mask: white where the picture is to be filled." : "";
  }

  announce() {
    byId("translate-note").textContent = this.missing;
  }

  /**
   * Translates the source.
   *
   * @param model name of the model.
   * @param options texts of the form, by the names of the HTTP interface.
   * @returns where the time went; undefined if the source is not complete or readable, or another one came meanwhile.
   */
  async run(model, options, signal) {
    if (this.missing) {
      this.announce();
      byId("source-file").focus();
      return undefined;
    }
    const turn = ++this.turn;
    const changed = await findUnreadable([...this.files, ...(this.source.mask ? [this.mask] : [])]);
    if (turn !== this.turn) return undefined;
    if (changed) {
      this.askAgain(changed);
      return undefined;
    }
    const form = new FormData();
    for (const file of this.files) form.append(this.source.frames > 1 ? "frame" : "source", file);
    if (this.source.mask) form.append("mask", this.mask);
    for (const [name, value] of Object.entries({ ...options, fit: byId("fit").value })) form.append(name, value);
    byId("translate-note").textContent = "Translating …";
    const began = performance.now();
    try {
      const { blob, serial, timing } = await translate(model, form, signal);
      if (turn !== this.turn) return undefined;
      this.showPicture("result", blob, serial);
      const seconds = (performance.now() - began) / 1e3;
      byId("translate-note").textContent = `Translated in ${formatSeconds(seconds)}.`;
      return timing;
    } catch (error) {
      if (turn === this.turn) byId("translate-note").textContent = "";
      throw error;
    }
  }

  /** Asks for a file that cannot be read. For the browser, the same file in an empty field is a change. */
  askAgain(file) {
    const field = byId(file === this.mask ? "mask-file" : "source-file");
    field.value = "";
    field.focus();
    byId("translate-note").textContent = `${file.name} has changed or is gone. Choose it again.`;
  }

  clearResult() {
    this.turn += 1;
    const before = byId("result-picture").querySelector("img");
    if (before) URL.revokeObjectURL(before.src);
    byId("result-picture").replaceChildren();
    byId("result-caption").textContent = "";
    byId("save-result").hidden = true;
  }

  showPicture(which, blob, caption) {
    const url = URL.createObjectURL(blob);
    const image = make("img", { src: url, alt: which === "source" ? "Source" : "Translation" });
    const before = byId(`${which}-picture`).querySelector("img");
    if (before) URL.revokeObjectURL(before.src);
    image.addEventListener("load", () => image.classList.toggle("pixels", image.naturalWidth <= 96));
    byId(`${which}-picture`).replaceChildren(image);
    byId(`${which}-caption`).textContent = caption;
    if (which === "result") {
      Object.assign(byId("save-result"), { href: url, hidden: false });
    }
  }
}

/** Returns the first file that the browser does not read, such as one that has changed since it was chosen. */
async function findUnreadable(files) {
  for (const file of files) {
    try {
      await file.slice(0, 1).arrayBuffer();
    } catch {
      return file;
    }
  }
  return null;
}

function formatMegabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** Returns which sizes a model takes, as text. The server limits the pixels of source and result besides. */
function describeSize({ width, height, step, scale, tiled, maxWidth, maxHeight }) {
  if (!step) return `${width} × ${height} pixels`;
  const most = tiled ? "pictures of any size that the server accepts" : `pictures of up to ${maxWidth} × ${maxHeight} pixels`;
  const steps = step > 1 ? `, in multiples of ${step} pixels` : "";
  return `${most}${steps}${scale > 1 ? `, and makes them ${scale} times as wide and high` : ""}`;
}
