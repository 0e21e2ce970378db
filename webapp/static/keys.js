"use strict";
// Keys that all pages have: help, and the page or image before and after.
(() => {
  const help = document.getElementById("help");
  const typing = (target) => target.closest("input, select, textarea, dialog") !== null;
  document.getElementById("help-button").addEventListener("click", () => help.showModal());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    if (event.key === "?") {
      event.preventDefault();
      help.showModal();
    }
    const way = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    const link = way && document.querySelector(`a[rel=${way}]`);
    // A region that scrolls sideways keeps its arrows.
    if (link && !event.target.closest(".scroll")) {
      event.preventDefault();
      link.click();
    }
  });
  // What is left empty stays out of the address.
  const filters = document.getElementById("filters");
  if (filters) {
    filters.addEventListener("formdata", (event) => {
      for (const [name, value] of [...event.formData]) {
        if (value === "") event.formData.delete(name);
      }
    });
  }
})();
