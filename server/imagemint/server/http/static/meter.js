// How fast the answers are: of this page, and of the whole server where it serves /metrics.

import { byId, formatCount, formatSeconds, sleep } from "./dom.js";
import { parseDuration } from "./api.js";

const KEPT = 40;
const SCRAPE_MS = 2000;
// The server writes it into the page if it serves its metrics here.
const METRICS = document.documentElement.dataset.metrics;

export class Meter {
  constructor() {
    this.rates = [];
    addEventListener("resize", () => this.draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.followServer();
  }

  /** Begins to measure one request. */
  begin() {
    this.began = performance.now();
    this.first = NaN;
    this.images = 0;
    this.times = { queue: 0, model: 0, chunks: 0 };
  }

  /** Adds one chunk. */
  add(count, timing) {
    if (!this.images) this.first = (performance.now() - this.began) / 1e3;
    this.images += count;
    this.times.queue = Math.max(this.times.queue, parseDuration(timing?.queue));
    this.times.model += parseDuration(timing?.inference);
    const seconds = (performance.now() - this.began) / 1e3;
    this.rate = this.images / seconds;
    byId("m-first").textContent = formatSeconds(this.first);
    byId("m-queue").textContent = formatSeconds(this.times.queue);
    byId("m-model").textContent = formatSeconds(this.times.model / this.images);
    byId("m-rate").textContent = `${formatCount(Math.round(this.rate))}/s`;
  }

  /** Ends one request. */
  end() {
    if (!this.images) return;
    this.rates.push(this.rate);
    this.rates = this.rates.slice(-KEPT);
    this.draw();
  }

  draw() {
    const canvas = byId("spark");
    const scale = devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const step = width / KEPT;
    const most = Math.max(...this.rates, 1);
    pen.fillStyle = getComputedStyle(canvas).color;
    this.rates.forEach((rate, at) => {
      const tall = Math.max(2, (rate / most) * (height - 4));
      pen.globalAlpha = at === this.rates.length - 1 ? 1 : 0.4;
      pen.fillRect(at * step, height - tall, Math.max(2, step - 2), tall);
    });
  }

  /** Shows the load of the whole server, if it serves its metrics here. */
  async followServer() {
    if (!METRICS) return;
    let last = null;
    for (;;) {
      const now = document.hidden ? last : await scrape();
      if (now === undefined) return;
      if (now && last && now.at > last.at) {
        const rate = ((now.images - last.images) / (now.at - last.at)) * 1e3;
        byId("server-load").hidden = false;
        byId("server-load").textContent =
          `Whole server: ${formatCount(Math.round(rate))} images/s, ${formatCount(now.queue)} queued`;
      }
      last = now;
      await sleep(SCRAPE_MS);
    }
  }
}

/** Returns the figures of /metrics; null if there is no answer, undefined if there never will be. */
async function scrape() {
  try {
    const response = await fetch(METRICS, { cache: "no-store" });
    if (!response.ok) return undefined;
    const text = await response.text();
    const total = (name) => [...text.matchAll(new RegExp(`^${name}(?:{[^}]*})? (\\S+)$`, "gm"))]
      .reduce((sum, found) => sum + Number(found[1]), 0);
    return { at: performance.now(), images: total("imagemint_images_total"), queue: total("imagemint_queue_images") };
  } catch {
    return null;
  }
}
