// Chart of one metric over the rate. The pointer or the arrow keys select a point; all charts mark it.
"use strict";

const REACH = 40; // maximum distance of the pointer from a point, in pixels

class Chart {
  constructor(metric, series, state, all) {
    Object.assign(this, { metric, series, state, all });
    const better = metric.higher_is_better ? "higher is better" : "lower is better";
    this.drawing = svg("svg", { tabindex: 0, role: "group", "aria-roledescription": "chart" });
    this.drawing.setAttribute(
      "aria-label",
      `${metric.name} over bits per pixel, ${better}. Left and right move along a curve, up and down change it. The table of means has the numbers.`,
    );
    this.tip = element("div", { className: "tip", role: "status", hidden: true });
    this.widen = element("button", { type: "button", className: "quiet", "aria-pressed": "false" }, "Enlarge");
    this.widen.addEventListener("click", () => this.setWide(!this.figure.classList.contains("wide")));
    const name = element("strong", {}, metric.name);
    const hint = element("span", {}, `${metric.unit ? metric.unit + ", " : ""}${better}`);
    this.figure = element("figure", { className: "chart", "data-metric": metric.column });
    this.figure.append(element("figcaption", {}, name, hint, this.widen), this.drawing, this.tip);
    this.drawing.addEventListener("pointermove", (event) => this.pick(this.nearest(event), true));
    this.drawing.addEventListener("pointerdown", (event) => this.pick(this.nearest(event), true));
    this.drawing.addEventListener("pointerleave", () => this.pick(null));
    this.drawing.addEventListener("blur", () => this.pick(null));
    this.drawing.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.figure);
  }

  setWide(wide) {
    this.figure.classList.toggle("wide", wide);
    this.widen.setAttribute("aria-pressed", String(wide));
    this.widen.textContent = wide ? "Reduce" : "Enlarge";
  }

  draw() {
    const width = Math.round(this.figure.clientWidth);
    if (!width) return;
    const height = Math.round(Math.min(Math.max(width * 0.62, 240), 460));
    this.box = { left: 50, right: width - 14, top: 12, bottom: height - 40 };
    this.drawing.replaceChildren();
    for (const [key, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) {
      this.drawing.setAttribute(key, value);
    }
    const shown = this.series.filter((one) => !this.state.hidden.has(one));
    this.setScales(shown);
    this.drawAxes();
    this.drawn = [];
    this.labels = [];
    for (const one of [...shown].reverse()) this.drawSeries(one); // draws the first codec on top
    this.placeLabels();
    this.mark();
  }

  setScales(shown) {
    const column = this.metric.column;
    const { left, right, top, bottom } = this.box;
    const rates = shown.flatMap((one) => one.points.map((point) => point.bpp)).filter((bpp) => finite(bpp) && bpp > 0);
    const values = shown.flatMap((one) =>
      one.kind === "ceiling" ? [one.ceiling[column]] : one.points.map((point) => point.values[column]),
    ).filter(finite);
    this.rates = rates.length ? [Math.min(...rates), Math.max(...rates)] : [0.1, 1];
    this.rates = this.state.log ? [this.rates[0] / 1.12, this.rates[1] * 1.12] : [0, this.rates[1] * 1.05];
    let [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
    const room = (high - low || Math.abs(high) || 1) * 0.07;
    const floor = low >= 0 ? 0 : -Infinity;
    [low, high] = [Math.max(low - room, floor), high + room];
    this.values = [low, high];
    const f = this.state.log ? Math.log : (v) => v;
    const [a, b] = this.rates.map(f);
    this.x = (bpp) => left + ((f(bpp) - a) / (b - a)) * (right - left);
    this.y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
  }

  drawAxes() {
    const { left, right, top, bottom } = this.box;
    const grid = svg("g", { class: "axes", "aria-hidden": "true" });
    for (const tick of tickSteps(...this.values, Math.max(5, (bottom - top) / 50))) {
      const y = Math.round(this.y(tick)) + 0.5;
      grid.append(svg("path", { d: `M${left},${y}H${right}` }));
      grid.append(svg("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, String(tick)));
    }
    const ticks = this.state.log ? logTicks(...this.rates, (right - left) / 55) : tickSteps(...this.rates, Math.max(3, (right - left) / 90));
    for (const tick of ticks) {
      const x = Math.round(this.x(tick)) + 0.5;
      grid.append(svg("path", { d: `M${x},${bottom}v5`, class: "tick" }));
      grid.append(svg("text", { x, y: bottom + 19, "text-anchor": "middle" }, String(tick)));
    }
    grid.append(svg("path", { d: `M${left},${bottom + 0.5}H${right}`, class: "tick" }));
    const title = `bits per pixel${this.state.log ? ", log scale" : ""}`;
    grid.append(svg("text", { x: right, y: bottom + 35, "text-anchor": "end", class: "title" }, title));
    this.drawing.append(grid);
  }

  drawSeries(one) {
    const column = this.metric.column;
    const group = svg("g", { class: `curve ${paint(one)}` });
    if (one.kind === "ceiling") {
      if (!finite(one.ceiling[column])) return;
      const y = this.y(one.ceiling[column]);
      group.append(svg("path", { d: `M${this.box.left},${y}H${this.box.right}`, class: "line" }));
      this.labels.push({ x: this.box.left + 4, y: y - 6, text: `${one.name} ${formatted(one.ceiling[column], this.metric.digits)}`, series: one });
    }
    const points = one.points.filter((point) => finite(point.values[column]));
    const joined = points.filter((point) => point.complete);
    const line = joined.map((point) => `${this.x(point.bpp)},${this.y(point.values[column])}`).join("L");
    if (joined.length > 1) group.append(svg("path", { d: `M${line}`, class: "line" }));
    points.forEach((point) => {
      const [x, y] = [this.x(point.bpp), this.y(point.values[column])];
      const d = MARKERS[one.slot % MARKERS.length](one.kind === "published" ? 3.2 : 4.2);
      group.append(svg("path", { d, transform: `translate(${x},${y})`, class: point.complete ? "marker" : "marker partial" }));
      this.drawn.push({ series: one, point, x, y });
    });
    const wide = this.figure.classList.contains("wide");
    if (one.kind === "published" && (points.length > 1 || (wide && points.length))) {
      const [x, y] = [this.x(points[0].bpp), this.y(points[0].values[column])];
      this.labels.push({ x: x - 8, y: y + 4, text: one.name, series: one, before: true });
    }
    this.drawing.append(group);
    (this.groups ??= new Map()).set(one, group);
  }

  // Places labels before the first point, or after it without room, and moves overlapping ones down.
  placeLabels() {
    const taken = [];
    const group = svg("g", { "aria-hidden": "true" });
    for (const label of this.labels.sort((a, b) => a.y - b.y)) {
      const width = 6.2 * label.text.length;
      const ends = Boolean(label.before) && label.x - width > this.box.left;
      const x = label.before && !ends ? label.x + 16 : label.x;
      let { y } = label;
      const [from, to] = ends ? [x - width, x] : [x, x + width];
      for (const other of taken) {
        if (from < other.to && to > other.from && Math.abs(y - other.y) < 13) y = other.y + 13;
      }
      taken.push({ from, to, y });
      const anchor = ends ? "end" : "start";
      group.append(svg("text", { x, y, "text-anchor": anchor, class: `label ${paint(label.series)}` }, label.text));
    }
    this.drawing.append(group);
  }

  nearest(event) {
    const frame = this.drawing.getBoundingClientRect();
    const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
    let best = null;
    let distance = event.pointerType === "touch" ? 2 * REACH : REACH;
    for (const candidate of this.drawn) {
      const d = Math.hypot(candidate.x - x, candidate.y - y);
      if (d < distance) [best, distance] = [candidate, d];
    }
    return best;
  }

  pick(found) {
    const next = found ? { series: found.series, point: found.point, chart: this } : null;
    const old = this.state.picked;
    if (next?.point === old?.point && next?.chart === old?.chart) return;
    this.state.picked = next;
    for (const chart of this.all()) chart.mark();
  }

  key(event) {
    const { key } = event;
    if (key === "Escape") return this.pick(null);
    if (!["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(key)) return;
    event.preventDefault();
    const curvesHere = this.series.map((one) => this.drawn.filter((d) => d.series === one)).filter((c) => c.length);
    if (!curvesHere.length) return;
    const picked = this.state.picked;
    let row = curvesHere.findIndex((c) => c[0].series === picked?.series);
    if (row < 0) return this.pick(curvesHere[0][0]);
    let column = Math.max(0, curvesHere[row].findIndex((d) => d.point === picked.point));
    if (key === "ArrowLeft") column -= 1;
    if (key === "ArrowRight") column += 1;
    if (key === "ArrowUp") row -= 1;
    if (key === "ArrowDown") row += 1;
    const curve = curvesHere[(row + curvesHere.length) % curvesHere.length];
    this.pick(curve[Math.min(Math.max(column, 0), curve.length - 1)]);
  }

  emphasise(one) {
    this.drawing.classList.toggle("dimmed", one !== null);
    this.groups?.forEach((group, series) => group.classList.toggle("lifted", series === one));
  }

  mark() {
    const picked = this.state.picked;
    this.drawing.querySelector(".ring")?.remove();
    this.tip.hidden = !(picked && picked.chart === this);
    this.emphasise(picked ? picked.series : null);
    const place = picked && this.drawn?.find((d) => d.point === picked.point);
    if (!place) return;
    this.drawing.append(svg("circle", { cx: place.x, cy: place.y, r: 8, class: `ring ${paint(place.series)}` }));
    if (picked.chart === this) this.explain(place);
  }

  explain({ series, point, x, y }) {
    const lines = [element("strong", {}, series.name)];
    const value = `${this.metric.name} ${formatted(point.values[this.metric.column], this.metric.digits)} ${this.metric.unit}`;
    lines.push(element("span", {}, value.trim()), element("span", {}, `${formatted(point.bpp, 4)} bpp`));
    if (finite(point.bytes)) {
      const aim = point.budget ? `budget ${formatted(point.budget, 0)}, mean ` : "mean ";
      lines.push(element("span", {}, `${aim}${formatted(point.bytes, 0)} bytes`));
    }
    if (finite(point.quality)) lines.push(element("span", {}, `quality ${point.quality}`));
    if (finite(point.pictures)) {
      lines.push(element("span", {}, `${point.pictures} of ${point.total} images`));
      if (point.complete && point.unreachable) lines.push(element("span", {}, `${point.unreachable} over budget`));
    }
    if (series.source) lines.push(element("span", {}, `published, ${series.source}`));
    this.tip.replaceChildren(...lines);
    const half = this.tip.offsetWidth / 2;
    const centre = Math.min(Math.max(x, half + 4), this.figure.clientWidth - half - 4);
    this.tip.style.left = `${centre}px`;
    const above = y > this.tip.offsetHeight + 24;
    this.tip.style.top = `${this.drawing.offsetTop + y + (above ? -14 : 14)}px`;
    this.tip.classList.toggle("below", !above);
  }
}
