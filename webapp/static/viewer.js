"use strict";
// The viewer: draws a radiograph on a canvas, with window and level, zoom, pan, and a heat map.
// `openViewer` is called again when a page gets a new radiograph without being loaded again.
function openViewer() {
  const viewer = document.getElementById("viewer");
  if (!viewer || viewer.dataset.open) return;
  viewer.dataset.open = "yes";
  const find = (id) => document.getElementById(id);
  const canvas = find("stage");
  const context = canvas.getContext("2d");
  const state = find("state");
  const [levelDial, widthDial] = [find("level"), find("width")];
  const [heatChoice, opacityDial] = [find("heat"), find("opacity")];
  const radiograph = document.createElement("canvas");
  const view = { x: 0, y: 0, scale: 1, inverted: false, moving: false };
  const layers = new Map();
  let grey = null; // the levels of the radiograph as sent, 0 to 255
  let windowed = null; // the pixels of `radiograph`, after window and level
  let isScheduled = false;

  async function fetched(address) {
    if (address.startsWith("data:")) {
      const image = new Image();
      image.src = address;
      await image.decode();
      return image;
    }
    const accept = { Accept: "image/png, application/json" };
    const answer = await fetch(address, { headers: accept });
    if (!answer.ok) throw new Error((await answer.json()).error);
    return createImageBitmap(await answer.blob());
  }

  async function load() {
    try {
      const bitmap = await fetched(viewer.dataset.radiograph);
      radiograph.width = bitmap.width;
      radiograph.height = bitmap.height;
      const onto = radiograph.getContext("2d", { willReadFrequently: true });
      onto.drawImage(bitmap, 0, 0);
      windowed = onto.getImageData(0, 0, radiograph.width, radiograph.height);
      const pixels = new Uint32Array(windowed.data.buffer);
      grey = new Uint8Array(pixels.length);
      for (let i = 0; i < pixels.length; i++) grey[i] = pixels[i] & 255;
      state.hidden = true;
      viewer.dataset.ready = "yes";
      fit();
    } catch (error) {
      state.textContent = error.message || "The image cannot be shown.";
      state.classList.add("alert");
    }
  }

  function applyWindow() {
    const level = Number(levelDial.value);
    const width = Number(widthDial.value);
    const shades = new Uint32Array(256);
    for (let value = 0; value < 256; value++) {
      // The function LINEAR of DICOM PS3.3 C.11.2.1.2.1, the identity at 128 and 256.
      const share = (value - (level - 0.5)) / Math.max(1, width - 1) + 0.5;
      let shade = Math.round(255 * Math.min(1, Math.max(0, share)));
      if (view.inverted) shade = 255 - shade;
      shades[value] = (0xff000000 | (shade << 16) | (shade << 8) | shade) >>> 0;
    }
    const pixels = new Uint32Array(windowed.data.buffer);
    for (let i = 0; i < grey.length; i++) pixels[i] = shades[grey[i]];
    radiograph.getContext("2d").putImageData(windowed, 0, 0);
  }

  function draw() {
    isScheduled = false;
    if (!grey) return;
    const ratio = window.devicePixelRatio || 1;
    const box = canvas.getBoundingClientRect();
    canvas.width = Math.round(box.width * ratio);
    canvas.height = Math.round(box.height * ratio);
    context.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y);
    context.imageSmoothingEnabled = view.scale < 3;
    context.imageSmoothingQuality = "high";
    context.drawImage(radiograph, 0, 0);
    const layer = heatChoice && layers.get(heatChoice.value);
    if (layer) {
      context.imageSmoothingEnabled = true;
      context.globalAlpha = Number(opacityDial.value) / 100;
      context.save();
      context.beginPath();
      context.rect(0, 0, radiograph.width, radiograph.height);
      context.clip();
      context.drawImage(layer, ...extentOfHeat());
      context.restore();
      context.globalAlpha = 1;
    }
  }

  // For a model that pads its input to a square, the heat map covers the padding too.
  function extentOfHeat() {
    if (viewer.dataset.geometry !== "pad") return [0, 0, radiograph.width, radiograph.height];
    const edge = Math.max(radiograph.width, radiograph.height);
    return [(radiograph.width - edge) / 2, (radiograph.height - edge) / 2, edge, edge];
  }

  function redraw() {
    if (!isScheduled) {
      isScheduled = true;
      requestAnimationFrame(draw);
    }
  }

  let windowIsScheduled = false;
  function rewindow() {
    if (windowIsScheduled || !grey) return;
    windowIsScheduled = true;
    requestAnimationFrame(() => {
      windowIsScheduled = false;
      applyWindow();
      redraw();
    });
  }

  function fit() {
    const box = canvas.getBoundingClientRect();
    view.scale = Math.min(box.width / radiograph.width, box.height / radiograph.height);
    view.x = (box.width - radiograph.width * view.scale) / 2;
    view.y = (box.height - radiograph.height * view.scale) / 2;
    redraw();
  }

  function reset() {
    levelDial.value = 128;
    widthDial.value = 256;
    setInverted(false);
    fit();
  }

  function setInverted(inverted) {
    view.inverted = inverted;
    find("invert").setAttribute("aria-pressed", inverted);
    rewindow();
  }

  function zoom(factor, x, y) {
    const box = canvas.getBoundingClientRect();
    const [atX, atY] = [x ?? box.width / 2, y ?? box.height / 2];
    const scale = Math.min(40, Math.max(0.02, view.scale * factor));
    view.x = atX - ((atX - view.x) * scale) / view.scale;
    view.y = atY - ((atY - view.y) * scale) / view.scale;
    view.scale = scale;
    redraw();
  }

  function showHeat() {
    const address = heatChoice.value;
    if (!address || layers.has(address)) return redraw();
    const layer = new Image();
    layer.addEventListener("load", () => {
      layers.set(address, layer);
      viewer.dataset.heat = heatChoice.selectedOptions[0].text;
      redraw();
    });
    layer.src = address;
  }

  function toggleHeat() {
    if (!heatChoice) return;
    const first = heatChoice.querySelector("[data-first]") || heatChoice.options[1];
    heatChoice.value = heatChoice.value ? "" : first.value;
    showHeat();
  }

  const pointers = new Map();
  const spread = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a.x - b.x, a.y - b.y);
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const before = pointers.size === 2 ? spread() : 0;
    const [x, y] = [event.offsetX - last.x, event.offsetY - last.y];
    pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    if (pointers.size === 2) {
      view.x += x / 2;
      view.y += y / 2;
      const [a, b] = [...pointers.values()];
      zoom(spread() / Math.max(1, before), (a.x + b.x) / 2, (a.y + b.y) / 2);
    } else if (view.moving || event.shiftKey || event.buttons & 6) {
      view.x += x;
      view.y += y;
      redraw();
    } else {
      widthDial.value = Number(widthDial.value) + x;
      levelDial.value = Number(levelDial.value) + y / 2;
      rewindow();
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => pointers.delete(event.pointerId));
  }
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 500), event.offsetX, event.offsetY);
  }, { passive: false });

  find("pan").addEventListener("click", () => {
    view.moving = !view.moving;
    find("pan").setAttribute("aria-pressed", view.moving);
  });
  find("invert").addEventListener("click", () => setInverted(!view.inverted));
  find("closer").addEventListener("click", () => zoom(1.25));
  find("farther").addEventListener("click", () => zoom(0.8));
  find("reset").addEventListener("click", reset);
  levelDial.addEventListener("input", rewindow);
  widthDial.addEventListener("input", rewindow);
  if (heatChoice) {
    heatChoice.addEventListener("change", showHeat);
    opacityDial.addEventListener("input", redraw);
  }
  window.addEventListener("resize", () => grey && fit());
  const keys = { i: () => setInverted(!view.inverted), h: toggleHeat, 0: reset, "+": () => zoom(1.25), "-": () => zoom(0.8) };
  // Only the newest viewer answers keys; an older one was removed from the page.
  document.addEventListener("keydown", (event) => {
    if (!viewer.isConnected || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea, dialog")) return;
    const action = keys[event.key.toLowerCase()];
    if (action) {
      event.preventDefault();
      action();
    }
  });
  load();
}
openViewer();
