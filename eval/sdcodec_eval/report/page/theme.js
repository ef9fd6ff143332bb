// Light and dark theme: the system's, or the reader's choice, which the browser stores.
"use strict";

function themeSwitch(button) {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const current = () => root.dataset.theme || (system.matches ? "dark" : "light");
  const describe = () => {
    const next = current() === "dark" ? "light" : "dark";
    button.textContent = next === "dark" ? "Dark" : "Light";
    button.setAttribute("aria-label", `Switch to the ${next} theme`);
  };
  try {
    const kept = localStorage.getItem("sdcodec-report-theme");
    if (kept === "light" || kept === "dark") root.dataset.theme = kept;
  } catch { /* pages opened from disk may have no storage */ }
  button.addEventListener("click", () => {
    root.dataset.theme = current() === "dark" ? "light" : "dark";
    try { localStorage.setItem("sdcodec-report-theme", root.dataset.theme); } catch { /* as above */ }
    describe();
  });
  system.addEventListener("change", describe);
  button.hidden = false;
  describe();
}
