// The form: which model, which images. Its state is also the fragment of the page's address.

import { byId, formatCount, make, makePicture } from "./dom.js";
import { fetchPicture } from "./api.js";
import { cutResults } from "./examples.js";
import { clearFaults, showFaults } from "./faults.js";

const COUNTS = [4, 9, 16, 36, 64, 144, 400];
const DEFAULT_COUNT = 36;
const MOST_IMAGES = 1000;
const MOST_CHIPS = 16;
const READY = "MODEL_STATE_READY";
// Models that look best come first; others follow by name.
const FIRST = ["avatars"];
const UINT64_END = 2n ** 64n;
// What depends on the model; the seed and the number of images do not.
const OF_MODEL = ["version", "compare", "class", "caption", "truncation"];

/** Returns a random seed, as text; short, so that people can repeat it. */
export const drawSeed = () => String(crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000);

export class Controls {
  /** @param changed called when another model or version is shown, or the shown one has changed. */
  constructor(changed) {
    this.models = [];
    this.changed = changed;
    this.hasShown = false;
    this.labels = new Map(); // of the models, by name
    byId("controls").addEventListener("input", (event) => this.note(event.target));
    byId("dice").addEventListener("click", () => {
      byId("seed").value = drawSeed();
      byId("controls").requestSubmit();
    });
    this.readAddress();
  }

  /**
   * Takes what the address asks for.
   *
   * `wanted` holds it, and what the visitor chooses later. The fields show it as far as the models
   * of the server permit.
   */
  readAddress() {
    this.wanted = new URLSearchParams(location.hash.slice(1));
    byId("seed").value = this.wanted.get("seed") ?? "42";
    const asked = Number(this.wanted.get("count") ?? DEFAULT_COUNT);
    const count = asked >= 1 ? Math.min(Math.floor(asked), MOST_IMAGES) : DEFAULT_COUNT;
    this.counts = [...new Set([...COUNTS, count])].toSorted((a, b) => a - b);
    byId("count").max = this.counts.length - 1;
    byId("count").value = this.counts.indexOf(count);
    this.showValues();
    if (this.models.length) this.setModels(this.models);
  }

  /** Keeps what the visitor chose in a field. */
  note(field) {
    const name = field.name || field.id;
    if (!OF_MODEL.includes(name)) return this.showValues();
    const isNone = name === "truncation" ? this.isUnbounded() : field.value === (name === "class" ? "any" : "");
    if (isNone) this.wanted.delete(name);
    else this.wanted.set(name, field.value);
    if (name === "version") this.showVersion();
    this.showValues();
  }

  /** Shows the models. Fields whose choices are the same keep what they show, and the focus. */
  setModels(models) {
    const place = (model) => (FIRST.includes(model.name) ? 0 : 1);
    this.models = models.toSorted((a, b) => place(a) - place(b) || a.name.localeCompare(b.name));
    const find = (name) => this.models.find((each) => each.name === name);
    // Until a model was ready, the first that is takes the place of one that nobody chose.
    const shown = this.hasShown ? find(this.name) : undefined;
    this.model = find(this.wanted.get("model")) ?? shown ?? this.models.find(isReady) ?? this.models[0];
    this.showPicker();
    this.showModel();
  }

  showPicker() {
    const labels = this.models.map((model) => this.findLabel(model));
    if (!labels.length) labels.push(make("p", { class: "muted" }, "This server has no models."));
    for (const label of labels) {
      const radio = label.querySelector("input");
      if (radio) radio.checked = radio.value === this.name;
    }
    const place = byId("models");
    if (place.children.length === labels.length && labels.every((label, at) => label === place.children[at])) return;
    const focused = place.contains(document.activeElement) ? document.activeElement.value : null;
    place.replaceChildren(...labels);
    labels.map((label) => label.querySelector("input")).find((radio) => radio && radio.value === focused)?.focus();
  }

  /** Returns the label of a model; the same one as before if it would look the same. */
  findLabel(model) {
    const look = `${describe(model)} ${isReady(model) ? model.defaultVersion : ""}`;
    if (this.labels.get(model.name)?.look !== look) {
      this.labels.set(model.name, { look, label: this.makeLabel(model) });
    }
    return this.labels.get(model.name).label;
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

  makeLabel(model) {
    const thumbs = make("div", { class: "thumbs", "aria-hidden": "true" });
    if (isReady(model)) fillThumbs(thumbs, model);
    const onchange = () => {
      this.wanted = new URLSearchParams({ model: model.name });
      this.setModels(this.models);
    };
    const radio = make("input", { type: "radio", name: "model", value: model.name, onchange });
    const text = make("div", {}, make("strong", {}, model.name), make("span", {}, describe(model)));
    return make("label", { class: "model" }, radio, thumbs, text);
  }

  get ready() {
    return this.model?.versions.filter((each) => each.state === READY) ?? [];
  }

  showModel() {
    const select = byId("version");
    const before = this.name === this.shownName ? select.value : "";
    this.shownName = this.name;
    setChoices(select, this.ready.toReversed().map((each) => [each.version, each.version]));
    const wishes = [this.wanted.get("version"), before, this.model?.defaultVersion, this.ready.at(-1)?.version];
    select.value = wishes.find((wish) => this.ready.some((each) => each.version === wish)) ?? "";
    select.disabled = this.ready.length < 2;
    this.showVersion();
  }

  showVersion() {
    const others = this.ready.filter((each) => each !== this.version);
    const compare = byId("compare");
    setChoices(compare, [["", "nothing"], ...others.map((each) => [each.version, `version ${each.version}`])]);
    compare.disabled = !others.length;
    compare.value = others.some((each) => each.version === this.wanted.get("compare")) ? this.wanted.get("compare") : "";
    this.showCondition();
    this.showTruncation();
    this.showUnmet();
    this.hasShown ||= Boolean(this.version);
    byId("mint").disabled = !this.version;
    byId("mint").textContent = this.source ? "Translate" : "Generate";
    byId("count-field").hidden = byId("compare-field").hidden = Boolean(this.source);
    byId("seed-field").hidden = Boolean(this.source) && !this.version.manifest.latent;
    const look = JSON.stringify([this.name, this.version ?? this.model?.versions]);
    if (look === this.look) return;
    this.look = look;
    this.changed();
  }

  /** Says what the address asks for and the server does not have. */
  showUnmet() {
    const [model, version, wish] = ["model", "version", "class"].map((name) => this.wanted.get(name));
    const unmet = [];
    if (Number(this.wanted.get("count")) > MOST_IMAGES) unmet.push(`This page shows at most ${formatCount(MOST_IMAGES)} images.`);
    if (model && this.name && model !== this.name) unmet.push(`There is no model “${model}”; this is ${this.name}.`);
    else if (version && this.version && version !== this.version.version) {
      unmet.push(`${this.name} has no version ${version} that serves; this is version ${this.version.version}.`);
    }
    if (wish && this.classes && !this.classes.includes(wish)) unmet.push(`${this.name} has no class ${wish}.`);
    byId("unmet").textContent = unmet.join(" ");
    byId("unmet").hidden = !unmet.length;
  }

  showCondition() {
    const manifest = this.version?.manifest;
    const labels = manifest?.classLabels ?? [];
    byId("class-field").hidden = !labels.length;
    byId("caption-field").hidden = !manifest?.caption;
    this.showClasses(labels);
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
    const look = JSON.stringify(choices);
    if (look !== this.classLook) {
      this.classLook = look;
      byId("classes").replaceChildren(...makeClasses(choices));
    }
    this.classes = labels.length ? choices.map(([value]) => value) : null;
    const wish = this.wanted.get("class");
    const value = this.classes?.includes(wish) ? wish : "any";
    const select = byId("class");
    if (select) select.value = value;
    for (const radio of document.querySelectorAll("input[name=class]")) radio.checked = radio.value === value;
  }

  showTruncation() {
    const range = this.version?.manifest.latent?.truncation;
    byId("truncation-field").hidden = !range;
    if (!range) return;
    const wish = Number(this.wanted.get("truncation") ?? NaN);
    // Beyond 2.5 a threshold cuts off nothing that the eye can see.
    const usual = range.kind === "TRUNCATION_KIND_PSI" ? range.maximum : Math.min(range.maximum, 2.5);
    const most = wish <= range.maximum ? Math.max(usual, wish) : usual;
    Object.assign(byId("truncation"), { min: range.minimum, max: most + 0.05, step: 0.05 });
    byId("truncation").value = Number.isNaN(wish) ? most + 0.05 : wish;
    this.showValues();
  }

  /** Whether the right end of the range is chosen, which means no truncation. */
  isUnbounded() {
    const input = byId("truncation");
    return Number(input.value) > Number(input.max) - 0.049;
  }

  /** The truncation; null for none. It may have more digits than the range has steps. */
  get truncation() {
    const wish = Number(this.wanted.get("truncation") ?? NaN);
    return byId("truncation-field").hidden || Number.isNaN(wish) ? null : wish;
  }

  get count() {
    return this.counts[Number(byId("count").value)];
  }

  showValues() {
    byId("count-value").textContent = formatCount(this.count);
    byId("count").setAttribute("aria-valuetext", `${this.count} images`);
    const { truncation } = this;
    const digits = { minimumFractionDigits: 2, maximumFractionDigits: 6 };
    const text = truncation === null ? "none" : truncation.toLocaleString("en", digits);
    byId("truncation-value").textContent = text;
    byId("truncation").setAttribute("aria-valuetext", text);
  }

  /** Returns what the form asks for, as an ImageSpec without a version; null if the seed is wrong. */
  read() {
    const text = byId("seed").value.trim();
    const valid = /^\d{1,20}$/.test(text) && BigInt(text) < UINT64_END;
    clearFaults();
    if (!valid) {
      showFaults([{ field: "seed", text: `A seed is a whole number from 0 to ${UINT64_END - 1n}.` }]);
      return null;
    }
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

/** Sets the options of a select, unless it has them already. */
function setChoices(select, choices) {
  const look = JSON.stringify(choices);
  if (select.dataset.look === look) return;
  select.dataset.look = look;
  select.replaceChildren(...choices.map(([value, text]) => make("option", { value }, text)));
}

/** Returns a select for many classes, and a radio button each for few. */
function makeClasses(choices) {
  if (choices.length > MOST_CHIPS + 2) {
    const options = choices.map(([value, text]) => make("option", { value }, text));
    return [make("select", { id: "class", "aria-label": "Class" }, ...options)];
  }
  return choices.map(([value, text]) =>
    make("label", { class: "chip" }, make("input", { type: "radio", name: "class", value }), text));
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
    place.append(...results.map((blob) => makePicture(blob, { alt: "" })));
    return;
  }
  for (let index = 0; index < 4; index += 1) {
    try {
      const blob = await fetchPicture(`v1/models/${model.name}/versions/${version}/images/7/${index}.png`);
      place.append(makePicture(blob, { alt: "" }));
    } catch {
      return; // a picker without pictures still picks
    }
  }
}
