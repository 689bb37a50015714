// The form: which model, which images. Its state is also the fragment of the page's address.

import { byId, formatCount, make } from "./dom.js";
import { fetchPicture } from "./api.js";
import { cutResults } from "./examples.js";

const COUNTS = [4, 9, 16, 36, 64, 144, 400];
const MOST_CHIPS = 16;
const READY = "MODEL_STATE_READY";
// Models that look best come first; others follow by name.
const FIRST = ["avatars"];
const UINT64_END = 2n ** 64n;

/** Returns a random seed, as text; short, so that people can repeat it. */
export const drawSeed = () => String(crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000);

export class Controls {
  /** @param changed called when another model or version was picked. */
  constructor(changed) {
    this.models = [];
    this.changed = changed;
    this.wanted = new URLSearchParams(location.hash.slice(1));
    byId("seed").value = this.wanted.get("seed") ?? "42";
    const count = COUNTS.indexOf(Number(this.wanted.get("count")));
    byId("count").value = count < 0 ? 3 : count;
    byId("count").addEventListener("input", () => this.showValues());
    byId("truncation").addEventListener("input", () => this.showValues());
    byId("dice").addEventListener("click", () => {
      byId("seed").value = drawSeed();
      byId("controls").requestSubmit();
    });
    byId("version").addEventListener("change", () => this.showVersion());
    this.showValues();
  }

  /** Shows the models; keeps the picked one if it is still there. */
  setModels(models) {
    const place = (model) => (FIRST.includes(model.name) ? 0 : 1);
    this.models = models.toSorted((a, b) => place(a) - place(b) || a.name.localeCompare(b.name));
    const picked = this.name ?? this.wanted.get("model");
    this.model = this.models.find((each) => each.name === picked) ?? this.models.find(isReady) ?? this.models[0];
    byId("models").replaceChildren(...this.models.map((model) => this.makeModel(model)));
    if (!this.models.length) byId("models").append(make("p", { class: "muted" }, "This server has no models."));
    this.showModel();
  }

  get name() {
    return this.model?.name;
  }

  get version() {
    return this.findVersion(byId("version").value);
  }

  /** The source that the version translates; null if it takes none. */
  get source() {
    return this.version?.manifest.source ?? null;
  }

  /** Returns an ImageSpec as the options of a translation. */
  options(spec) {
    const options = { version: this.version.version };
    if (this.version.manifest.latent) options.seed = spec.seed;
    if (spec.classId !== undefined) options.class = String(spec.classId);
    for (const name of ["caption", "truncation"]) if (spec[name] !== undefined) options[name] = String(spec[name]);
    return options;
  }

  /** The version to compare with; undefined for none. */
  get other() {
    return this.findVersion(byId("compare").value);
  }

  findVersion(number) {
    return this.model?.versions.find((each) => each.version === number && each.state === READY);
  }

  makeModel(model) {
    const thumbs = make("div", { class: "thumbs", "aria-hidden": "true" });
    if (isReady(model)) fillThumbs(thumbs, model);
    const radio = make("input", {
      type: "radio", name: "model", value: model.name, checked: model === this.model,
      onchange: () => {
        this.model = model;
        this.wanted = new URLSearchParams();
        this.showModel();
      },
    });
    const text = make("div", {}, make("strong", {}, model.name), make("span", {}, describe(model)));
    return make("label", { class: "model" }, radio, thumbs, text);
  }

  showModel() {
    const ready = this.model?.versions.filter((each) => each.state === READY) ?? [];
    const options = ready.toReversed().map((each) => make("option", { value: each.version }, each.version));
    byId("version").replaceChildren(...options);
    byId("version").value = this.wanted.get("version") ?? this.model?.defaultVersion ?? "";
    if (!byId("version").value && options.length) byId("version").value = options[0].value;
    byId("version").disabled = ready.length < 2;
    this.showVersion();
  }

  showVersion() {
    const ready = this.model?.versions.filter((each) => each.state === READY) ?? [];
    const others = ready.filter((each) => each !== this.version);
    byId("compare").replaceChildren(
      make("option", { value: "" }, "nothing"),
      ...others.map((each) => make("option", { value: each.version }, `version ${each.version}`)),
    );
    byId("compare").disabled = !others.length;
    byId("compare").value = others.some((each) => each.version === this.wanted.get("compare"))
      ? this.wanted.get("compare") : "";
    this.showCondition();
    this.showTruncation();
    byId("mint").disabled = !this.version;
    byId("mint").textContent = this.source ? "Translate" : "Generate";
    byId("count-field").hidden = byId("compare-field").hidden = Boolean(this.source);
    byId("seed-field").hidden = Boolean(this.source) && !this.version.manifest.latent;
    this.changed();
  }

  showCondition() {
    const manifest = this.version?.manifest;
    const labels = manifest?.classLabels ?? [];
    byId("class-field").hidden = !labels.length;
    byId("caption-field").hidden = !manifest?.caption;
    if (labels.length) this.showClasses(labels);
    if (manifest?.caption) {
      const { examples = [], maxWords } = manifest.caption;
      byId("captions").replaceChildren(...examples.map((value) => make("option", { value })));
      byId("caption").placeholder = examples[0] ?? "";
      byId("caption").value = this.wanted.get("caption") ?? "";
      byId("caption-hint").textContent = `At most ${maxWords} words. Empty: a caption for each image.`;
    }
  }

  showClasses(labels) {
    const choices = [["any", "Any"], ["balanced", "In turn"], ...labels.map((label, id) => [String(id), label])];
    const wanted = this.wanted.get("class") ?? "any";
    if (labels.length > MOST_CHIPS) {
      const options = choices.map(([value, text]) => make("option", { value }, text));
      byId("classes").replaceChildren(make("select", { id: "class", "aria-label": "Class" }, ...options));
      byId("class").value = wanted;
      return;
    }
    byId("classes").replaceChildren(...choices.map(([value, text]) => {
      const radio = make("input", { type: "radio", name: "class", value, checked: value === wanted });
      return make("label", { class: "chip" }, radio, text);
    }));
  }

  showTruncation() {
    const range = this.version?.manifest.latent?.truncation;
    byId("truncation-field").hidden = !range;
    if (!range) return;
    // Beyond 2.5 a threshold cuts off nothing that the eye can see.
    const most = range.kind === "TRUNCATION_KIND_PSI" ? range.maximum : Math.min(range.maximum, 2.5);
    Object.assign(byId("truncation"), { min: range.minimum, max: most + 0.05, step: 0.05 });
    byId("truncation").value = this.wanted.get("truncation") ?? most + 0.05;
    this.showValues();
  }

  /** The truncation; null for none, which is the right end of the range. */
  get truncation() {
    const input = byId("truncation");
    if (byId("truncation-field").hidden || Number(input.value) > Number(input.max) - 0.049) return null;
    return Number(input.value);
  }

  get count() {
    return COUNTS[Number(byId("count").value)];
  }

  showValues() {
    byId("count-value").textContent = formatCount(this.count);
    byId("count").setAttribute("aria-valuetext", `${this.count} images`);
    const text = this.truncation === null ? "none" : this.truncation.toFixed(2);
    byId("truncation-value").textContent = text;
    byId("truncation").setAttribute("aria-valuetext", text);
  }

  /** Returns what the form asks for, as an ImageSpec without a version; null if the seed is wrong. */
  read() {
    const text = byId("seed").value.trim();
    const valid = /^\d{1,20}$/.test(text) && BigInt(text) < UINT64_END;
    byId("seed").setAttribute("aria-invalid", String(!valid));
    if (!valid) return null;
    const spec = { seed: text, count: String(this.count) };
    if (!byId("class-field").hidden) Object.assign(spec, this.readClass());
    const caption = byId("caption").value.trim();
    if (!byId("caption-field").hidden && caption) spec.caption = caption;
    if (this.truncation !== null) spec.truncation = this.truncation;
    this.remember(spec);
    return spec;
  }

  readClass() {
    const value = (byId("class") ?? document.querySelector("input[name=class]:checked"))?.value ?? "any";
    if (value === "any") return {};
    return value === "balanced" ? { classCycle: {} } : { classId: Number(value) };
  }

  /** Writes the form into the address, so that it can be shared. */
  remember(spec) {
    const state = new URLSearchParams({ model: this.name, version: this.version.version, seed: spec.seed, count: spec.count });
    if (spec.classCycle) state.set("class", "balanced");
    else if (spec.classId !== undefined) state.set("class", spec.classId);
    for (const name of ["caption", "truncation"]) if (spec[name] !== undefined) state.set(name, spec[name]);
    if (this.other) state.set("compare", this.other.version);
    history.replaceState(null, "", `#${state}`);
  }
}

const isTranslator = (model) => model.versions.some((each) => each.state === READY && each.manifest.source);
const isReady = (model) => model.versions.some((each) => each.state === READY);

function describe(model) {
  const version = model.versions.findLast((each) => each.state === READY);
  if (!version) return model.versions.some((each) => each.state === "MODEL_STATE_LOADING") ? "still loading" : "not ready";
  const { image, classLabels = [], caption, source } = version.manifest;
  if (source) return source.scale > 1 ? `translates pictures, ${source.scale} × as large` : "translates pictures";
  const asks = caption ? "captions" : classLabels.length ? `${formatCount(classLabels.length)} classes` : "no classes";
  return `${image.width} × ${image.height}, ${asks}`;
}

async function fillThumbs(place, model) {
  const version = model.defaultVersion || model.versions.findLast((each) => each.state === READY).version;
  if (isTranslator(model)) {
    const results = await cutResults(model.name, version);
    place.append(...results.map((blob) => make("img", { src: URL.createObjectURL(blob), alt: "" })));
    return;
  }
  for (let index = 0; index < 4; index += 1) {
    try {
      const blob = await fetchPicture(`v1/models/${model.name}/versions/${version}/images/7/${index}.png`);
      place.append(make("img", { src: URL.createObjectURL(blob), alt: "" }));
    } catch {
      return; // a picker without pictures still picks
    }
  }
}
