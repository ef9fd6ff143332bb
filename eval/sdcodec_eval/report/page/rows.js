// Table of all rows of results.csv with a filter, built when it is opened.
"use strict";

function everyRow(data, details) {
  const build = () => {
    const table = details.querySelector("table");
    const cell = (value, digits) => element("td", { "data-value": value === "inf" ? "Infinity" : value ?? "" }, formatted(value, digits));
    const lines = data.rows.map((row) => {
      const name = data.codecs.find((codec) => codec.label === row.codec)?.name ?? row.codec;
      const status = element("td", { className: row.status === "ok" ? "text" : "text reason" }, row.status);
      const line = element("tr", {}, element("th", { scope: "row" }, row.image), element("td", { className: "text" }, name));
      line.append(cell(row.budget, 0), cell(row.quality, row.quality % 1 ? 1 : 0), cell(row.bytes, 0), cell(row.bpp, 4));
      line.append(...data.metrics.map((metric) => cell(row.values[metric.column], metric.digits)));
      line.append(cell(row.encode_seconds, 3), cell(row.decode_seconds, 3), status);
      line.dataset.text = `${row.image} ${name} ${row.budget ?? ""} ${row.status}`.toLowerCase();
      return line;
    });
    table.tBodies[0].append(...lines);
    sortable(table);
    const filter = details.querySelector("input");
    const count = details.querySelector("output");
    const apply = () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const line of lines) {
        line.hidden = !words.every((word) => line.dataset.text.includes(word));
        shown += !line.hidden;
      }
      count.textContent = `${formatted(shown, 0)} of ${formatted(lines.length, 0)} rows`;
    };
    filter.addEventListener("input", apply);
    apply();
  };
  details.addEventListener("toggle", build, { once: true });
}
