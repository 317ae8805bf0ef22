// Before the first paint: the colour scheme that was chosen in this browser, if one was.
(() => {
  try {
    const chosen = localStorage.getItem("theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // Storage is denied: the system's scheme it is.
  }
})();
