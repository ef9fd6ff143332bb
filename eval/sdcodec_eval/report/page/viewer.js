// Split view: two images in one frame with a movable split and a common zoom.
//
// Two layers fill the frame; the upper one is clipped at the split. Zoom and position apply to the images inside the
// layers, so the split does not move with them.
"use strict";

const ZOOMS = [1, 2, 3, 4, 6, 8, 12, 16];
const GRAB = 22; // pixels from the split within which the pointer moves it instead of the zoomed image

class Viewer {
  constructor(root, width, height, name) {
    Object.assign(this, { root, width, height });
    this.frame = root.querySelector(".frame");
    this.handle = root.querySelector(".handle");
    this.layers = { left: root.querySelector(".layer.left"), right: root.querySelector(".layer.right"), original: root.querySelector(".layer.original") };
    this.level = root.querySelector(".level");
    this.split = 0.5;
    this.zoom = 0; // 0: fitted; else CSS pixels per pixel of the image
    this.centre = [width / 2, height / 2];
    this.frame.style.setProperty("--ratio", String(width / height));
    this.frame.setAttribute("aria-label", `${name}, zoomed: arrow keys move the image`);
    this.frame.addEventListener("pointerdown", (event) => this.grab(event));
    this.frame.addEventListener("dblclick", (event) => this.setZoom(this.zoom ? 0 : this.close, this.under(event)));
    this.frame.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.frame.addEventListener("keydown", (event) => this.pan(event));
    this.handle.addEventListener("keydown", (event) => this.keyOnHandle(event));
    root.querySelector(".zoom-in").addEventListener("click", () => this.step(1));
    root.querySelector(".zoom-out").addEventListener("click", () => this.step(-1));
    this.peek = root.querySelector(".peek");
    this.peek.addEventListener("click", () => this.setPeek(this.peek.getAttribute("aria-pressed") !== "true"));
    const full = root.querySelector(".full");
    full.hidden = !document.fullscreenEnabled;
    full.addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen()));
    new ResizeObserver(() => this.layout()).observe(this.frame);
    this.setSplit(0.5);
  }

  // side: "left", "right" or "original". picture: {url, text}; without a url the text is shown instead.
  show(side, picture) {
    const layer = this.layers[side];
    const image = layer.querySelector("img");
    const note = layer.querySelector(".absent");
    image.hidden = !picture.url;
    note.hidden = Boolean(picture.url);
    if (picture.url) {
      if (image.src !== picture.url) image.src = picture.url;
      image.alt = picture.text;
    } else {
      image.removeAttribute("src");
      note.textContent = picture.text;
    }
    this.layout();
  }

  describe(left, right) {
    this.names = [left, right];
    this.handle.setAttribute("aria-label", `Split between ${left} on the left and ${right} on the right`);
    this.setSplit(this.split);
  }

  setSplit(share) {
    this.split = Math.min(Math.max(share, 0), 1);
    const percent = Math.round(this.split * 1000) / 10;
    this.handle.style.left = `${percent}%`;
    this.layers.right.style.clipPath = `inset(0 0 0 ${percent}%)`;
    this.handle.setAttribute("aria-valuenow", String(Math.round(percent)));
    this.handle.setAttribute("aria-valuetext", `${Math.round(percent)}% ${this.names?.[0] ?? ""}`);
  }

  setPeek(on) {
    this.peek.setAttribute("aria-pressed", String(on));
    this.root.classList.toggle("peeking", on);
  }

  get fitted() {
    return Math.min(this.frame.clientWidth / this.width, this.frame.clientHeight / this.height) || 1;
  }

  // Zoom of a double click: at least 4, and closer than fitted.
  get close() {
    return ZOOMS.find((z) => z >= Math.max(4, 1.5 * this.fitted)) ?? ZOOMS[ZOOMS.length - 1];
  }

  get scale() {
    return this.zoom || this.fitted;
  }

  setZoom(zoom, centre = this.centre) {
    const was = this.zoom;
    this.zoom = zoom;
    this.centre = centre;
    this.root.classList.toggle("zoomed", zoom > 0);
    if (zoom) this.frame.tabIndex = 0;
    else this.frame.removeAttribute("tabindex");
    this.level.textContent = zoom ? `${zoom}×` : "Fit";
    if (was !== zoom || zoom) this.layout();
  }

  step(direction) {
    const [levels, scale] = [ZOOMS, this.scale];
    const next = direction > 0 ? levels.find((z) => z > scale + 0.01) : levels.findLast((z) => z < scale - 0.01);
    if (direction > 0) this.setZoom(next ?? this.zoom);
    else this.setZoom(next && next > this.fitted ? next : 0);
  }

  layout() {
    const [w, h] = [this.frame.clientWidth, this.frame.clientHeight];
    if (!w || !h) return;
    const s = this.scale;
    const bound = (centre, size, room) => (size * s <= room ? size / 2 : Math.min(Math.max(centre, room / 2 / s), size - room / 2 / s));
    this.centre = [bound(this.centre[0], this.width, w), bound(this.centre[1], this.height, h)];
    const left = Math.round(w / 2 - this.centre[0] * s);
    const top = Math.round(h / 2 - this.centre[1] * s);
    for (const layer of Object.values(this.layers)) {
      const image = layer.querySelector("img");
      image.style.width = `${this.width * s}px`;
      image.style.height = `${this.height * s}px`;
      image.style.transform = `translate(${left}px, ${top}px)`;
    }
  }

  // Coordinates of the image under the pointer.
  under(event) {
    const box = this.frame.getBoundingClientRect();
    const s = this.scale;
    return [
      this.centre[0] + (event.clientX - box.left - box.width / 2) / s,
      this.centre[1] + (event.clientY - box.top - box.height / 2) / s,
    ];
  }

  grab(event) {
    if (event.button !== 0) return;
    const box = this.frame.getBoundingClientRect();
    const onSplit = Math.abs(event.clientX - box.left - this.split * box.width) < GRAB;
    const moves = this.zoom && !onSplit && !this.handle.contains(event.target);
    const start = { x: event.clientX, y: event.clientY, centre: this.centre };
    const follow = (at) => {
      if (!moves) return this.setSplit((at.clientX - box.left) / box.width);
      const s = this.scale;
      this.centre = [start.centre[0] - (at.clientX - start.x) / s, start.centre[1] - (at.clientY - start.y) / s];
      this.layout();
    };
    const end = () => {
      this.frame.removeEventListener("pointermove", follow);
      this.frame.removeEventListener("pointerup", end);
      this.frame.removeEventListener("pointercancel", end);
      this.root.classList.remove("dragging");
    };
    this.frame.setPointerCapture(event.pointerId);
    this.frame.addEventListener("pointermove", follow);
    this.frame.addEventListener("pointerup", end);
    this.frame.addEventListener("pointercancel", end);
    this.root.classList.add("dragging");
    if (moves) this.frame.focus({ preventScroll: true });
    else this.handle.focus({ preventScroll: true });
    event.preventDefault();
    if (!moves && event.pointerType !== "touch") follow(event); // a touch may start scrolling
  }

  wheel(event) {
    if (!event.ctrlKey) return; // a plain wheel scrolls the page; a pinch on a touchpad is a wheel with Ctrl
    event.preventDefault();
    const at = this.under(event);
    const old = this.scale;
    this.step(event.deltaY < 0 ? 1 : -1);
    const keep = old / this.scale; // keep the point under the pointer
    this.centre = at.map((value, axis) => value + (this.centre[axis] - value) * keep);
    this.layout();
  }

  keyOnHandle(event) {
    const step = event.shiftKey ? 0.1 : 0.01;
    const moves = {
      ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1,
    };
    if (event.key in moves) this.setSplit(this.split + moves[event.key]);
    else if (event.key === " ") this.setSplit(this.split < 0.5 ? 1 : 0);
    else if (event.key === "+" || event.key === "=") this.step(1);
    else if (event.key === "-") this.step(-1);
    else if (event.key === "0") this.setZoom(0);
    else if (event.key === "o") this.setPeek(this.peek.getAttribute("aria-pressed") !== "true");
    else return;
    event.preventDefault();
    event.stopPropagation(); // the frame pans with the same keys
  }

  pan(event) {
    if (!this.zoom || event.target !== this.frame) return;
    const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const direction = directions[event.key];
    if (direction) {
      const by = this.frame.clientWidth / 8 / this.scale;
      this.centre = [this.centre[0] + direction[0] * by, this.centre[1] + direction[1] * by];
      this.layout();
    } else if (event.key === "+" || event.key === "=") this.step(1);
    else if (event.key === "-") this.step(-1);
    else if (event.key === "0" || event.key === "Escape") this.setZoom(0);
    else return;
    event.preventDefault();
  }
}
