"use strict";
// Sends a dropped or chosen file; its result replaces the last one on the page.
(() => {
  const form = document.getElementById("upload");
  const input = document.getElementById("file");
  const button = form.querySelector("button");
  const progress = document.getElementById("progress");
  const result = document.getElementById("result");

  for (const kind of ["dragenter", "dragover"]) {
    form.addEventListener(kind, (event) => {
      event.preventDefault();
      form.classList.add("over");
    });
  }
  for (const kind of ["dragleave", "drop"]) {
    form.addEventListener(kind, () => form.classList.remove("over"));
  }
  form.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length === 0) return;
    input.files = event.dataTransfer.files;
    form.requestSubmit();
  });

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    result.replaceChildren();
    progress.className = "busy";
    progress.textContent = "Reading and scoring …";
    try {
      const answer = await fetch(form.action, { method: "POST", body: new FormData(form) });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const shown = page.getElementById("result") || page.querySelector("[role=alert]");
      progress.textContent = "";
      if (!shown) throw new Error(answer.status === 413 ? "The file is too large." : "");
      result.replaceChildren(...(shown.id === "result" ? shown.childNodes : [shown]));
      const about = page.getElementById("about");
      if (about) document.getElementById("about").replaceWith(about);
      openViewer();
    } catch (error) {
      progress.className = "alert";
      progress.textContent = error.message || "The server did not answer; try again.";
    } finally {
      button.disabled = false;
      if (progress.textContent === "") progress.className = "";
    }
  });
})();
