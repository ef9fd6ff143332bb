// Cards, one per image: a split view of two codecs at one size, and a table of all codecs.
"use strict";

const ORIGINAL = "original";

function pictureURLs() {
  const urls = new Map();
  return (key) => {
    if (!urls.has(key)) {
      const source = document.getElementById(`picture-${key}`);
      const bytes = Uint8Array.from(atob(source.textContent.trim()), (c) => c.charCodeAt(0));
      urls.set(key, URL.createObjectURL(new Blob([bytes], { type: source.dataset.type })));
    }
    return urls.get(key);
  };
}

function comparisons(data, section) {
  const controls = section.querySelector(".controls");
  const order = section.querySelector(".order");
  const urlOf = pictureURLs();
  const rowsOf = new Map(data.images.map((image) => [image.name, new Map(data.codecs.map((codec) => [codec.label, []]))]));
  for (const row of data.rows) rowsOf.get(row.image)?.get(row.codec)?.push(row);
  const chosen = (name) => controls.querySelector(`[name=${name}]`);
  const state = () => ({
    point: Number(controls.querySelector("[name=point]:checked").value),
    left: chosen("left").value,
    right: chosen("right").value,
  });

  // Returns the row of the selected budget; in a run over qualities, the row whose file is nearest in length to the
  // reference's file at the selected quality.
  function rowAt(image, label, point) {
    const rows = rowsOf.get(image).get(label);
    if (data.budgets.length) return rows.find((row) => row.budget === point);
    const at = rowsOf.get(image).get(data.reference).find((row) => row.quality === point);
    if (label === data.reference || !at?.bytes) return at && label === data.reference ? at : undefined;
    const away = (row) => Math.abs(Math.log(row.bytes / at.bytes));
    return rows.filter((row) => row.bytes).sort((a, b) => away(a) - away(b))[0];
  }

  const nameOf = (label) => data.codecs.find((codec) => codec.label === label)?.name ?? "Original";
  function whyAbsent(row, name) {
    if (!row) return `${name}: not measured`;
    if (row.status === "unreachable") return `${name} cannot reach ${formatted(row.limit ?? row.budget, 0)} bytes`;
    if (row.status !== "ok") return `${name}: ${row.status}`;
    return `${name}: ${row.absent || "no image in the report"}`;
  }

  class Card {
    constructor(image) {
      this.image = image;
      this.root = document.getElementById("comparison").content.firstElementChild.cloneNode(true);
      this.root.id = `image-${image.name}`;
      this.root.querySelector("h3 .name").textContent = image.name;
      this.root.querySelector("h3 .size").textContent = `${image.width} × ${image.height}`;
      this.viewer = new Viewer(this.root.querySelector(".viewer"), image.width, image.height, image.name);
      this.near = false;
    }

    side(which, label, point) {
      const tag = this.root.querySelector(`.tag.${which}`);
      const name = nameOf(label);
      const row = label === ORIGINAL ? null : rowAt(this.image.name, label, point);
      const key = label === ORIGINAL ? this.image.picture : row?.picture;
      const over = row?.status === "unreachable" && row.bytes ? ", over budget" : "";
      tag.textContent = row?.bytes ? `${name} · ${formatted(row.bytes, 0)} B${over}` : name;
      const text = key ? `${this.image.name}, ${tag.textContent}` : whyAbsent(row, name);
      if (this.near) this.viewer.show(which, { url: key ? urlOf(key) : null, text });
      return name;
    }

    update() {
      const { point, left, right } = state();
      this.viewer.describe(this.side("left", left, point), this.side("right", right, point));
      if (this.near) this.viewer.show("original", { url: urlOf(this.image.picture), text: `${this.image.name}, original` });
      this.fillTable(point, left, right);
    }

    fillTable(point, left, right) {
      const lines = data.codecs.map((codec) => {
        const row = rowAt(this.image.name, codec.label, point);
        const sides = (codec.label === left ? "◧" : "") + (codec.label === right ? "◨" : "");
        const line = element("tr", { className: sides ? "chosen" : "" });
        const swatch = element("span", { className: `swatch series-${codec.slot % 8}`, "aria-hidden": "true" });
        line.append(element("th", { scope: "row" }, swatch, codec.name, element("span", { className: "sides", "aria-hidden": "true" }, sides)));
        if (!row || (row.status !== "ok" && !row.bytes)) {
          const reason = !row ? "not measured" : row.status === "unreachable" ? `cannot reach ${formatted(row.limit ?? row.budget, 0)} bytes` : row.status;
          line.append(element("td", { colSpan: data.metrics.length + 1, className: "reason" }, reason));
        } else {
          const over = row.status === "unreachable";
          const bytes = element("td", { className: over ? "over" : "" }, formatted(row.bytes, 0));
          if (over) bytes.title = `over budget: at most ${formatted(row.limit, 0)} bytes`;
          line.append(bytes, ...data.metrics.map((metric) => element("td", {}, formatted(row.values[metric.column], metric.digits))));
        }
        return line;
      });
      this.root.querySelector("tbody").replaceChildren(...lines);
    }
  }

  const cards = data.images.filter((image) => image.picture).map((image) => new Card(image));

  // Images without a value come first.
  function sort() {
    const { point } = state();
    const by = order.querySelector("[name=metric]").value;
    const label = order.querySelector("[name=codec]").value;
    const metric = data.metrics.find((one) => one.column === by);
    order.querySelector("[name=codec]").disabled = !metric;
    const badness = (card) => {
      const row = rowAt(card.image.name, label, point);
      const value = row?.values[metric.column];
      if (value === "inf") return -Infinity;
      if (!finite(value)) return Infinity;
      return metric.higher_is_better ? -value : value;
    };
    const sorted = metric
      ? cards.map((card) => [badness(card), card]).sort(([a], [b]) => (a === b ? 0 : b - a)).map(([, card]) => card)
      : [...cards].sort((a, b) => a.image.name.localeCompare(b.image.name, undefined, { numeric: true }));
    sorted.forEach((card, index) => {
      const rank = card.root.querySelector(".rank");
      rank.textContent = metric && index === 0 ? `worst of ${cards.length}` : `${index + 1} of ${cards.length}`;
    });
    section.querySelector(".cards").replaceChildren(...sorted.map((card) => card.root));
  }

  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        const card = cards.find((one) => one.root === entry.target);
        if (entry.isIntersecting && !card.near) {
          card.near = true;
          card.update();
        }
      }
    },
    { rootMargin: "600px 0px" },
  );
  for (const card of cards) watcher.observe(card.root);

  const update = () => cards.forEach((card) => card.update());
  controls.addEventListener("change", (event) => {
    update();
    if (event.target.name === "point") sort();
  });
  controls.querySelector(".swap").addEventListener("click", () => {
    const [left, right] = [chosen("left"), chosen("right")];
    [left.value, right.value] = [right.value, left.value];
    update();
  });
  order.addEventListener("change", sort);
  update();
  sort();
}
