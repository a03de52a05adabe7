/* The search of the catalogue while one types. Without this script its form asks the server, which answers the same. */
(() => {
  "use strict";
  const form = document.getElementById("search");
  if (!form) return;
  const field = form.elements.q;
  const apps = [...document.querySelectorAll(".apps > li")];
  const found = document.getElementById("found");

  function look() {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const app of apps) {
      const fits = words.every((word) => app.dataset.said.includes(word));
      app.hidden = !fits;
      count += fits;
    }
    const text = words.length ? (count === 1 ? "1 app" : `${count || "No"} apps`) : "";
    if (found.textContent !== text) found.textContent = text;
  }

  // What the server has left out can't be shown by us: then it is the server that is asked.
  if (form.dataset.whole === undefined) return;
  field.addEventListener("input", look);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector("button").hidden = true;
  look();
})();
