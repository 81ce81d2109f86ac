"use strict";
// The panels of a case: one crosshair, one slice, one look for all of them.
gen3d.number = (v) => (Math.abs(v) >= 100 ? v.toFixed(0) : v.toPrecision(3)).replace("-0.00", "0.00");

gen3d.Case = class {
  constructor(section) {
    this.section = section;
    this.form = section.querySelector(".controls");
    this.figures = [...section.querySelectorAll(".panel")];
    this.tiles = [...section.querySelectorAll(".tiles button[data-choice]")];
    this.choices = {};
    this.caches = new Map();
  }

  async open() {
    if (this.opening) return this.opening;
    return (this.opening = this.load());
  }

  async load() {
    const data = JSON.parse(this.section.querySelector(".data").textContent);
    const number = this.section.id.split("-")[1];
    this.panels = data.panels;
    this.volumes = [];
    for (let i = 0; i < data.volumes.length; i++) {
      const bytes = await gen3d.bytes(document.getElementById(`volume-${number}-${i}`));
      this.volumes.push(gen3d.volume(bytes, data.volumes[i]));
    }
    this.start = data.start;
    this.mm = [...data.start];
    for (const [i, panel] of this.panels.entries()) this.choices[i] = panel.kind === "mask" && panel.images.length > 1 ? -1 : 0;
    this.first = this.volumes[this.panels[0].images[0]];
    const flat = this.first.dims.indexOf(1);
    this.plane = flat < 0 ? 2 : flat;
    this.flat = flat >= 0;
    this.section.classList.toggle("flat", this.flat);
    for (const radio of this.form.querySelectorAll("[type=radio]")) radio.checked = Number(radio.value) === this.plane;
    this.listen();
    this.draw();
    new ResizeObserver(() => this.draw()).observe(this.section.querySelector(".panels"));
  }

  listen() {
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", (event) => this.steered(event.target));
    this.form.addEventListener("reset", () => setTimeout(() => this.reset()));
    this.figures.forEach((figure, i) => {
      const canvas = figure.querySelector("canvas");
      const point = (event) => {
        const box = canvas.getBoundingClientRect();
        this.pointed(i, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
      };
      canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); point(event); });
      canvas.addEventListener("pointermove", (event) => { if (event.buttons) point(event); });
      canvas.addEventListener("wheel", (event) => {
        if (document.activeElement !== canvas) return; // until it is clicked, the wheel moves the page
        event.preventDefault();
        this.move(this.plane, Math.sign(event.deltaY));
      }, { passive: false });
      canvas.addEventListener("keydown", (event) => this.pressed(event));
    });
    for (const tile of this.tiles) {
      tile.addEventListener("click", () => {
        this.choices[tile.closest(".strip").dataset.strip] = Number(tile.dataset.choice);
        this.draw();
      });
    }
  }

  steered(input) {
    const value = Number(input.value);
    if (input.type === "radio") this.plane = value;
    if (input.name === "slice") this.set(this.plane, value);
    this.draw();
  }

  reset() {
    this.mm = [...this.start];
    this.plane = this.flat ? this.plane : 2;
    for (const radio of this.form.querySelectorAll("[type=radio]")) radio.checked = Number(radio.value) === this.plane;
    this.draw();
  }

  pressed(event) {
    const { columns, rows, up } = gen3d.PLANES[this.plane];
    const moves = {
      ArrowLeft: [columns, -1], ArrowRight: [columns, 1], ArrowUp: [rows, up ? 1 : -1], ArrowDown: [rows, up ? -1 : 1],
      PageUp: [this.plane, 1], PageDown: [this.plane, -1],
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.move(...moves[event.key]);
  }

  // Moves the crosshair along an axis of the first volume, by voxels or to one.
  move(axis, by) { this.set(axis, gen3d.voxelAt(this.first, this.mm)[axis] + by); this.draw(); }

  set(axis, index) {
    const voxel = gen3d.voxelAt(this.first, this.mm);
    voxel[axis] = Math.min(this.first.dims[axis] - 1, Math.max(0, index));
    this.mm = gen3d.apply(this.first.affine, voxel);
  }

  pointed(i, x, y) {
    const volume = this.volumes[this.panels[i].images[0]], canvas = this.figures[i].querySelector("canvas");
    const frame = gen3d.frame(volume, this.plane, canvas.width, canvas.height);
    const { across, columns, rows, up } = gen3d.PLANES[this.plane];
    const voxel = [0, 0, 0];
    voxel[across] = gen3d.voxelAt(volume, this.mm)[across];
    const down = ((y * canvas.height - frame.top) / frame.height) * volume.dims[rows] - 0.5;
    voxel[columns] = ((x * canvas.width - frame.left) / frame.width) * volume.dims[columns] - 0.5;
    voxel[rows] = up ? volume.dims[rows] - 1 - down : down;
    const held = voxel.map((v, axis) => Math.min(volume.dims[axis] - 1, Math.max(0, v)));
    this.mm = gen3d.apply(volume.affine, held);
    this.draw();
  }

  look() {
    const value = (name, usual) => (this.form.elements[name] ? Number(this.form.elements[name].value) : usual);
    const contrast = 2 ** (value("contrast", 0) / 20), brightness = value("brightness", 0) / 100;
    const chosen = this.form.elements.window?.value.split(" ").map(Number);
    const window = (volume) => {
      const [low, high] = volume.units === "HU" && chosen?.length === 2 ? chosen : [volume.low, volume.high];
      const half = (high - low) / 2 / contrast, middle = (low + high) / 2 - brightness * (high - low);
      return [middle - half, middle + half];
    };
    return { window, opacity: value("opacity", 80) / 100, cross: this.form.elements.cross.checked };
  }

  draw() {
    this.waiting ??= requestAnimationFrame(() => { this.waiting = null; this.redraw(); });
  }

  redraw() {
    if (!this.section.open || !this.volumes) return;
    const slices = this.first.dims[this.plane], at = gen3d.voxelAt(this.first, this.mm)[this.plane];
    const slider = this.form.elements.slice, look = this.look();
    slider.max = slices - 1;
    slider.value = at;
    slider.disabled = slices < 2;
    slider.nextElementSibling.textContent = `${at + 1} of ${slices}`;
    const [x, y, z] = this.mm.map((mm) => mm.toFixed(0));
    this.form.querySelector(".place").textContent = this.flat ? "" : `(${x}, ${y}, ${z}) mm`;
    this.figures.forEach((figure, i) => this.panel(figure, i, look));
    for (const tile of this.tiles) this.tile(tile, look);
    gen3d.solidFollows?.(this);
  }

  panel(figure, i, look) {
    const panel = this.panels[i], canvas = figure.querySelector("canvas");
    const { columns, rows } = gen3d.PLANES[this.plane], box = this.first;
    const shape = (box.dims[columns] * box.spacing[columns]) / (box.dims[rows] * box.spacing[rows]);
    canvas.style.aspectRatio = Math.min(2, Math.max(0.7, shape));
    const ratio = window.devicePixelRatio || 1, inner = canvas.getBoundingClientRect();
    canvas.width = Math.max(1, Math.round(inner.width * ratio));
    canvas.height = Math.max(1, Math.round(inner.height * ratio));
    const shown = this.paint(canvas, panel, this.choices[i], look, look.cross);
    if (panel.synthetic) gen3d.watermark(canvas.getContext("2d"), canvas.width, canvas.height, false);
    this.told(figure, panel, shown);
  }

  tile(tile, look) {
    const canvas = tile.querySelector("canvas"), number = Number(tile.closest(".strip").dataset.strip);
    const choice = Number(tile.dataset.choice), panel = this.panels[number];
    tile.setAttribute("aria-pressed", String(this.choices[number] === choice));
    const state = [this.plane, gen3d.voxelAt(this.first, this.mm)[this.plane], look.opacity, look.window({ low: 0, high: 1 })].join();
    if (!canvas || tile.dataset.state === state) return;
    tile.dataset.state = state;
    const { columns, rows } = gen3d.PLANES[this.plane];
    canvas.width = 220;
    canvas.height = Math.round(220 * Math.min(1.3, (this.first.dims[rows] * this.first.spacing[rows])
      / (this.first.dims[columns] * this.first.spacing[columns])));
    this.paint(canvas, panel, choice, look, false);
    if (panel.synthetic) gen3d.watermark(canvas.getContext("2d"), canvas.width, canvas.height, true);
  }

  // Paints what is chosen of a panel and returns the volume whose value is told, if it is one.
  paint(canvas, panel, choice, look, cross) {
    const context = canvas.getContext("2d"), several = panel.images.length > 1;
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    const base = panel.under === null ? null : this.volumes[panel.under];
    const lone = choice >= 0 ? this.volumes[panel.images[choice]] : null;
    const guide = lone ?? this.volumes[panel.images[0]];
    const frame = gen3d.frame(guide, this.plane, canvas.width, canvas.height);
    if (base) this.layer(context, base, look, frame, false);
    const index = gen3d.voxelAt(guide, this.mm)[this.plane], thick = Math.max(1, canvas.width / 330);
    if (!lone || (several && panel.kind === "mask")) {
      const members = lone ? [choice] : panel.images.keys();
      for (const k of members) {
        const colour = gen3d.hue(k, panel.images.length);
        gen3d.outline(context, this.volumes[panel.images[k]], this.plane, index, frame, colour, lone ? 2 * thick : thick);
      }
    } else if (gen3d.inside(lone, this.mm)) this.layer(context, lone, look, frame, base !== null);
    if (!this.flat) this.marks(context, canvas);
    if (cross) this.cross(context, guide, frame);
    return lone;
  }

  layer(context, volume, look, frame, overlay) {
    const key = [this.volumes.indexOf(volume), overlay, look.opacity, ...look.window(volume)].join();
    if (!this.caches.has(key)) {
      if (this.caches.size > 100) this.caches.clear();
      this.caches.set(key, gen3d.colours(volume, look, overlay));
    }
    const index = gen3d.voxelAt(volume, this.mm)[this.plane];
    context.imageSmoothingEnabled = volume.kind !== "mask";
    context.imageSmoothingQuality = "high";
    const slice = gen3d.slice(volume, this.plane, index, this.caches.get(key));
    context.drawImage(slice, frame.left, frame.top, frame.width, frame.height);
  }

  marks(context, canvas) {
    const [left, right, top, bottom] = gen3d.PLANES[this.plane].marks, size = Math.round(canvas.width / 24);
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.fillStyle = "#9aa4b2";
    context.textBaseline = "middle";
    context.textAlign = "left";
    context.fillText(left, size / 2, canvas.height / 2);
    context.textAlign = "right";
    context.fillText(right, canvas.width - size / 2, canvas.height / 2);
    context.textAlign = "center";
    context.fillText(top, canvas.width / 2, size);
    void bottom; // the watermark stands there
  }

  cross(context, volume, frame) {
    const { columns, rows, up } = gen3d.PLANES[this.plane], voxel = gen3d.apply(volume.inverse, this.mm);
    const x = frame.left + ((voxel[columns] + 0.5) / volume.dims[columns]) * frame.width;
    const down = up ? volume.dims[rows] - 1 - voxel[rows] : voxel[rows];
    const y = frame.top + ((down + 0.5) / volume.dims[rows]) * frame.height, gap = context.canvas.width / 28;
    context.strokeStyle = "#39d5ff";
    context.lineWidth = Math.max(1, context.canvas.width / 420);
    context.globalAlpha = 0.85;
    context.beginPath();
    for (const [a, b] of [[0, x - gap], [x + gap, context.canvas.width]]) { context.moveTo(a, y); context.lineTo(b, y); }
    for (const [a, b] of [[0, y - gap], [y + gap, context.canvas.height]]) { context.moveTo(x, a); context.lineTo(x, b); }
    context.stroke();
    context.globalAlpha = 1;
  }

  // Says below a panel what its colours mean, and the value at the crosshair.
  told(figure, panel, volume) {
    const scale = figure.querySelector(".scale"), guide = volume ?? this.volumes[panel.images[0]];
    const values = panel.kind === "mask" ? "" : `${gen3d.number(guide.low)} to ${gen3d.number(guide.high)} ${guide.units}`;
    scale.dataset.kind = panel.kind;
    scale.title = values;
    const signs = panel.kind === "difference" ? "; blue: darker, red: brighter" : "";
    if (panel.kind !== "image" && panel.kind !== "mask") scale.textContent = values + signs;
    const out = figure.querySelector("output");
    if (!volume) { out.textContent = `${panel.images.length} outlines`; return; }
    const here = gen3d.inside(volume, this.mm) ? gen3d.valueAt(volume, this.mm) : NaN;
    const shown = panel.kind === "mask" ? String(here) : gen3d.number(here);
    const which = panel.images.length > 1 ? `${volume.title}: ` : "";
    out.textContent = Number.isNaN(here) ? "outside" : `${which}${shown} ${volume.units} at the crosshair`;
  }
};
