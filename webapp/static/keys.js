"use strict";
// Keys of all pages: "?" opens the help, arrows go to the previous and next page or image.
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
    // A region that scrolls sideways keeps its arrow keys.
    if (link && !event.target.closest(".scroll")) {
      event.preventDefault();
      link.click();
    }
  });
  // Empty fields of the filter are left out of the address.
  const filters = document.getElementById("filters");
  if (filters) {
    filters.addEventListener("formdata", (event) => {
      for (const [name, value] of [...event.formData]) {
        if (value === "") event.formData.delete(name);
      }
    });
  }
})();
