/* Follows a start, and opens the app as soon as it is ready. */
(() => {
  "use strict";
  const POLL_MS = 300;
  const SURE = 5; // a gateway that has just come up may not know of this start yet
  const steps = document.getElementById("waiting");
  const bar = document.getElementById("bar");
  const { app, target } = steps.dataset;
  const show = (id, text) => {
    const element = document.getElementById(id);
    if (element.textContent !== text) element.textContent = text; // an unchanged text is not read out again
    element.hidden = !text;
  };

  function follow(status) {
    const items = [...steps.children];
    const now = items.findIndex((item) => item.dataset.step === status.step);
    if (now < 0) return;
    items.forEach((item, i) => {
      item.className = i < now ? "done" : i === now ? "now" : "later";
      if (i === now) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    });
    for (const item of items) item.lastElementChild.textContent = status.steps[item.dataset.step] ?? "";
    items[now].lastElementChild.textContent = "";
    show("step", items[now].firstElementChild.textContent);
    show("line", status.line);
    show("usual", status.usual);
    bar.hidden = status.progress === null;
    bar.value = status.progress ?? 0;
    const seconds = Math.floor(status.elapsed_s);
    show("elapsed", seconds === 1 ? "1 second" : `${seconds} seconds`);
  }

  function open() {
    // Replacing a page's address by its own with a #fragment loads nothing.
    if (target === location.pathname + location.search) location.reload();
    else location.replace(target + location.hash);
  }

  let unknown = 0;
  async function look() {
    let status = null;
    try {
      const answer = await fetch(`/-/status?app=${encodeURIComponent(app)}`, { cache: "no-store" });
      if (answer.ok) status = await answer.json();
    } catch { /* said below */ }
    show("trouble", status ? "" : "The connection is lost. Trying again…");
    unknown = status?.state === "none" ? unknown + 1 : 0;
    if (unknown >= SURE || status?.ending === "visitor") {
      // Somebody cancelled it, in another tab perhaps. Opening the app would start it again, unasked.
      show("trouble", "The start was cancelled.");
      document.getElementById("gone").hidden = false;
      document.getElementById("cancel").hidden = true;
      return;
    }
    if (status?.state === "ready" || status?.state === "ended") return open(); // the page behind it says why it ended
    if (status) follow(status);
    setTimeout(look, POLL_MS);
  }

  look();
})();
