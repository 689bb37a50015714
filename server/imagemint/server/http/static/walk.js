// The walk: the images on the great circle between two latents, played back and forth.

import { byId, make, makePicture } from "./dom.js";
import { Failure, decodePicture, fetchWalk, parseDuration, streamWalk } from "./api.js";

const FRAMES = 60;
const FRAME_MS = 50;

export class Walk {
  /** @param pick returns two random images of the grid; null if there are none. */
  constructor(pick) {
    this.ends = { a: null, b: null };
    this.frames = [];
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    byId("walk-play").addEventListener("click", () => (this.playing ? this.pause() : this.play()));
    byId("walk-save").addEventListener("click", () => this.save());
    byId("walk-random").addEventListener("click", () => {
      const two = pick();
      if (!two) return;
      this.set("a", two[0]);
      this.set("b", two[1]);
      this.play();
    });
    for (const end of ["a", "b"]) {
      byId(`slot-${end}`).addEventListener("click", () => this.await(this.awaited === end ? null : end));
    }
    byId("walk-position").addEventListener("input", (event) => {
      this.pause();
      this.showFrame(Number(event.target.value));
    });
  }

  /** Waits for the next picked image, to be this end; null ends the waiting. */
  await(end) {
    this.awaited = end;
    for (const each of ["a", "b"]) byId(`slot-${each}`).setAttribute("aria-pressed", String(each === end));
    byId("walk-hint").textContent = end
      ? `Now pick the image for ${end.toUpperCase()} in the grid.` : "Press A or B to choose another end.";
  }

  /** Takes a picked image as the awaited end; returns false if none is awaited. */
  take(image) {
    if (!this.awaited) return false;
    const end = this.awaited;
    this.await(null);
    this.set(end, image);
    return true;
  }

  /** Sets one end. */
  set(end, image) {
    this.reset();
    this.ends[end] = image;
    const slot = byId(`slot-${end}`);
    slot.classList.add("filled");
    slot.setAttribute("aria-label", `${end.toUpperCase()}: ${image.label}, serial ${image.serial}`);
    slot.replaceChildren(makePicture(image.blob, { alt: "", class: image.pixels ? "pixels" : "" }));
    byId("walk-canvas").classList.toggle("pixels", Boolean(image.pixels));
    if (end === "a" || !this.ends.b) this.drawBlob(image.blob);
  }

  /** Forgets both ends, such as after a change of the model. */
  clear() {
    this.reset();
    for (const end of ["a", "b"]) {
      this.ends[end] = null;
      byId(`slot-${end}`).classList.remove("filled");
      byId(`slot-${end}`).replaceChildren(make("span", {}, end.toUpperCase()));
      byId(`slot-${end}`).setAttribute("aria-label", `${end.toUpperCase()}: choose an image`);
    }
  }

  reset() {
    this.pause();
    if (this.hasSaid) byId("walk-hint").textContent = "Press Walk to see the way between A and B.";
    this.hasSaid = false;
    this.loading?.abort();
    this.loading = null;
    for (const frame of this.frames) frame.close();
    this.frames = [];
    byId("walk-position").disabled = true;
    byId("walk-save").disabled = true;
  }

  async play() {
    if (!this.ends.a || !this.ends.b) {
      this.await(this.ends.a ? "b" : "a");
      return;
    }
    if (this.loading) return; // it plays when all frames are there
    if (this.frames.length < FRAMES && !(await this.load())) return;
    if (this.still.matches) return this.showFrame(FRAMES - 1);
    this.playing = true;
    byId("walk-play").textContent = "Pause";
    const began = performance.now() - Number(byId("walk-position").value) * FRAME_MS;
    const step = (now) => {
      if (!this.playing) return;
      const at = Math.floor((now - began) / FRAME_MS) % (2 * FRAMES - 2);
      this.showFrame(at < FRAMES ? Math.max(at, 0) : 2 * FRAMES - 2 - at);
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  pause() {
    this.playing = false;
    byId("walk-play").textContent = "Walk";
  }

  /** Asks for the frames, and shows each as it comes; returns whether all came. */
  async load() {
    const { a, b } = this.ends;
    this.reset();
    const { signal } = (this.loading = new AbortController());
    const began = performance.now();
    this.hasSaid = true; // of these ends
    byId("walk-hint").textContent = "Walking …";
    try {
      for await (const chunk of streamWalk(a.model, [a.serial, b.serial], FRAMES, signal)) {
        for (const picture of chunk.batch.pictures) {
          const frame = await createImageBitmap(decodePicture(picture));
          if (signal.aborted) return false;
          this.frames.push(frame);
          this.showFrame(this.frames.length - 1);
        }
        this.modelSeconds = parseDuration(chunk.timing?.inference);
      }
    } catch (error) {
      if (signal.aborted) return false;
      if (!(error instanceof Failure)) throw error;
      byId("walk-hint").textContent = error.problem.detail;
      return false;
    } finally {
      if (!signal.aborted) this.loading = null;
    }
    const seconds = ((performance.now() - began) / 1e3).toFixed(1);
    byId("walk-hint").textContent = `${FRAMES} images between A and B, generated in ${seconds} s.`;
    byId("walk-position").max = FRAMES - 1;
    byId("walk-position").disabled = false;
    byId("walk-save").disabled = false;
    return true;
  }

  showFrame(at) {
    const frame = this.frames[at];
    if (!frame) return;
    this.draw(frame);
    byId("walk-position").value = at;
    byId("walk-position").setAttribute("aria-valuetext", `Frame ${at + 1} of ${FRAMES}`);
  }

  async drawBlob(blob) {
    const bitmap = await createImageBitmap(blob);
    this.draw(bitmap);
    bitmap.close();
  }

  draw(bitmap) {
    const canvas = byId("walk-canvas");
    if (canvas.width !== bitmap.width) canvas.width = bitmap.width;
    if (canvas.height !== bitmap.height) canvas.height = bitmap.height;
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
  }

  async save() {
    const { a, b } = this.ends;
    if (this.saving) return;
    this.saving = true; // not `disabled`, which would take the focus away
    try {
      const url = URL.createObjectURL(await fetchWalk(a.model, [a.serial, b.serial], FRAMES));
      make("a", { href: url, download: "walk.webp" }).click();
      URL.revokeObjectURL(url);
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      byId("walk-hint").textContent = error.problem.detail;
    } finally {
      this.saving = false;
    }
  }
}
