// Formatting of numbers, and a constructor of elements. The data contain infinity as the string "inf".
"use strict";

const MISSING = "–";

function formatted(value, digits) {
  if (value === null || value === undefined) return MISSING;
  if (value === "inf") return "∞";
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function finite(value) {
  return typeof value === "number" && Number.isFinite(value);
}

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}
