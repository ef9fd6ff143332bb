// Start of the scripts: tables and curves first, images after the rest of the page is parsed.
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
