// A grid of images that fills as they come. One Tab stop; the arrow keys move inside.

import { make } from "./dom.js";

// Widths of tiles to aim at, in pixels, by number of images.
const TILES = [[9, 190], [16, 150], [36, 110], [64, 92], [144, 66], [Infinity, 44]];
const PHONE_WIDTH = 500;
const MOST_MISFIT = Math.log(2); // half or twice the wanted width
const PIXEL_ART = 40;

export class Grid {
  /**
   * @param title heading, such as avatars@1.
   * @param open called with the position of a picked image.
   */
  constructor(title, open) {
    this.images = [];
    this.open = open;
    this.list = make("ul", { class: "grid", role: "list", "aria-label": `Images of ${title}`, onkeydown: (event) => this.move(event) });
    this.element = make("div", { class: "pane" }, make("h2", {}, title), this.list);
    this.observer = new ResizeObserver(() => this.arrange());
    this.observer.observe(this.element);
  }

  /** Chooses the number of columns: full rows if possible, and tiles of about the wanted width. */
  arrange() {
    const width = this.element.clientWidth;
    if (!width || !this.tiles?.length) return;
    const count = this.tiles.length;
    const wish = TILES.find(([most]) => count <= most)[1] * (width < PHONE_WIDTH ? 0.72 : 1);
    const misfit = (columns) => Math.abs(Math.log(width / columns / wish));
    const divisors = Array.from({ length: count }, (_, at) => at + 1).filter((columns) => count % columns === 0);
    const full = divisors.reduce((best, columns) => (misfit(columns) < misfit(best) ? columns : best));
    // A prime number of images has no full rows but one row, or one column.
    this.columns = misfit(full) <= MOST_MISFIT ? full : Math.min(Math.max(Math.round(width / wish), 1), count);
    this.list.style.setProperty("--columns", this.columns);
  }

  /** Shows empty places for `count` images of this shape. */
  begin(count, shape) {
    this.clear();
    this.list.classList.toggle("pixels", shape.width <= PIXEL_ART);
    this.element.classList.add("waiting");
    this.tiles = Array.from({ length: count }, (_, at) => make("button", {
      type: "button", class: "tile", disabled: true, tabIndex: -1, "aria-label": `Image ${at + 1}, not generated yet`,
      onclick: () => this.open(at),
      onmouseenter: () => this.mark(at),
      onfocus: () => this.mark(at),
    }));
    this.list.replaceChildren(...this.tiles.map((tile) => make("li", {}, tile)));
    this.arrange();
  }

  /** Fills the next place; `image` has url, serial and label. */
  add(image) {
    const tile = this.tiles[this.images.length];
    if (!tile) return;
    if (!this.images.length) tile.tabIndex = 0;
    this.images.push(image);
    tile.disabled = false;
    tile.classList.add("fresh");
    tile.setAttribute("aria-label", `${image.label}, serial ${image.serial}`);
    tile.title = image.serial;
    tile.replaceChildren(make("img", { src: image.url, alt: "", draggable: false }));
    const at = this.images.length - 1;
    if (at === this.awaited && document.activeElement === this.list) this.focus(at);
  }

  /** Ends the animation of empty places. */
  end() {
    this.element.classList.remove("waiting");
  }

  clear() {
    for (const image of this.images) URL.revokeObjectURL(image.url);
    this.images = [];
  }

  mark(at) {
    this.twin?.highlight(at);
  }

  /** Marks the image of the same seed and index in the other version. */
  highlight(at) {
    this.list.querySelector(".twin")?.classList.remove("twin");
    this.tiles?.[at]?.classList.add("twin");
  }

  /** Moves the focus to a place, if it is filled. */
  focus(at) {
    if (at < 0 || at >= this.images.length) return;
    for (const tile of this.tiles) tile.tabIndex = -1;
    this.tiles[at].tabIndex = 0;
    this.tiles[at].focus();
  }

  /** The position of the focused tile, or of the one that Tab reaches. */
  get position() {
    return Math.max(this.tiles?.findIndex((tile) => tile.tabIndex === 0) ?? 0, 0);
  }

  /** Keeps the focus in the grid, and moves it to a place as soon as that is filled. */
  awaitFocus(at) {
    if (this.images.length > at) return this.focus(at);
    this.awaited = at;
    this.list.tabIndex = -1;
    return this.list.focus();
  }

  move(event) {
    const at = this.tiles?.indexOf(document.activeElement) ?? -1;
    if (at < 0) return;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns };
    const to = { Home: 0, End: this.images.length - 1 }[event.key] ?? at + (steps[event.key] ?? 0);
    if (to === at) return;
    event.preventDefault();
    this.focus(to);
  }
}
