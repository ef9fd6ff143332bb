// Brings the page to life once the text, the tables and the numbers are there; the pictures follow further down.
"use strict";

{
  themeSwitch(document.querySelector(".theme"));
  for (const table of document.querySelectorAll("table.sortable")) sortable(table);
  const data = JSON.parse(document.getElementById("results").textContent);
  curves(data, document.getElementById("curves"));
  everyRow(data, document.getElementById("rows"));
  document.addEventListener("DOMContentLoaded", () => {
    const pictures = document.getElementById("pictures");
    if (data.images.some((image) => image.picture)) comparisons(data, pictures);
  });
}
