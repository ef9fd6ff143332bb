// Rate–distortion curves: a chart for each metric, and a common legend.
"use strict";

function seriesOf(data) {
  const codecs = data.codecs.map((codec) => ({
    kind: "codec",
    name: codec.name,
    slot: codec.slot,
    points: codec.points.filter((point) => finite(point.bpp)).sort((a, b) => a.bpp - b.bpp),
  }));
  const ceilings = data.codecs
    .filter((codec) => Object.keys(codec.ceiling).length)
    .map((codec) => ({
      kind: "ceiling", name: `${codec.name} unquantised`, slot: codec.slot, points: [], ceiling: codec.ceiling,
    }));
  const published = data.published.map((curve, index) => ({
    kind: "published",
    name: curve.name,
    slot: index,
    source: curve.source,
    points: curve.points.map((point) => ({ bpp: point.bpp, values: point, complete: true })),
  }));
  return [...codecs, ...ceilings, ...published];
}

function curves(data, section) {
  const series = seriesOf(data);
  const state = { log: true, hidden: new Set(), picked: null };
  const charts = data.metrics
    .filter((metric) => series.some((one) => one.points.some((point) => finite(point.values[metric.column]))))
    .map((metric) => new Chart(metric, series, state, () => charts));
  if (charts.length % 2 && charts.length > 1) charts[0].setWide(true); // leaves an even number for the rows of two
  section.querySelector(".charts").append(...charts.map((chart) => chart.figure));
  section.querySelector(".legend").append(...series.map((one) => legendButton(one, state, charts)));
  for (const choice of section.querySelectorAll("input[name=scale]")) {
    choice.addEventListener("change", () => {
      state.log = section.querySelector("input[name=scale]:checked").value === "log";
      for (const chart of charts) chart.draw();
    });
  }
}

function legendButton(one, state, charts) {
  const button = element("button", { type: "button", className: `key ${one.kind}`, "aria-pressed": "true" });
  const sample = svg("svg", { width: 30, height: 14, viewBox: "-15 -7 30 14", "aria-hidden": "true", class: paint(one) });
  sample.append(svg("path", { d: "M-14,0H14", class: "line" }));
  if (one.kind !== "ceiling") sample.append(svg("path", { d: MARKERS[one.slot % MARKERS.length](4), class: "marker" }));
  button.append(sample, one.name);
  if (one.source) button.title = `Published: ${one.source}`;
  button.addEventListener("click", () => {
    const shown = state.hidden.delete(one);
    if (!shown) state.hidden.add(one);
    if (state.picked?.series === one) state.picked = null;
    button.setAttribute("aria-pressed", String(shown));
    for (const chart of charts) chart.draw();
  });
  const lift = (on) => () => charts.forEach((chart) => chart.emphasise(on ? one : null));
  button.addEventListener("pointerenter", lift(true));
  button.addEventListener("pointerleave", lift(false));
  return button;
}
