"use strict";
// Slices as colours. Arrays run to the patient's left, back and head, so that the right side is on the left.
gen3d.PLANES = [
  { across: 0, columns: 1, rows: 2, up: true, marks: ["A", "P", "S", "I"] },
  { across: 1, columns: 0, rows: 2, up: true, marks: ["R", "L", "S", "I"] },
  { across: 2, columns: 0, rows: 1, up: false, marks: ["R", "L", "A", "P"] },
];
gen3d.AMBER = "#ffb000";
gen3d.WATERMARK = "SYNTHETIC - not for diagnosis";

const ramp = (stops) => (t) => {
  const x = Math.min(1, Math.max(0, t)) * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(x)), f = x - i;
  return stops[i].map((c, k) => c + f * (stops[i + 1][k] - c));
};
gen3d.RAMPS = {
  image: ramp([[0, 0, 0], [255, 255, 255]]),
  std: ramp([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]),
  probability: ramp([[20, 30, 90], [0, 110, 190], [0, 190, 160], [150, 220, 60], [255, 240, 60]]),
  difference: ramp([[154, 208, 255], [47, 129, 247], [0, 0, 0], [240, 86, 58], [255, 194, 168]]),
};
gen3d.LABELS = [[255, 99, 71], [64, 190, 255], [120, 220, 90], [255, 200, 60], [200, 130, 255], [255, 140, 200]];
gen3d.hue = (index, count) => `hsl(${Math.round((360 * index) / Math.max(count, 1))} 90% 62%)`;

// Colours of every raw number that may occur: [r, g, b, opacity 0..1], by raw - least.
gen3d.colours = function (volume, look, overlay) {
  const wide = volume.data instanceof Int16Array;
  let least = 0, most = 255;
  if (wide) {
    least = Infinity; most = -Infinity;
    for (const v of volume.data) { if (v < least) least = v; if (v > most) most = v; }
  }
  const [low, high] = volume.kind === "image" ? look.window(volume) : [volume.low, volume.high];
  const table = new Uint8ClampedArray(4 * (most - least + 1));
  for (let raw = least; raw <= most; raw++) {
    const value = raw * volume.slope + volume.offset, at = 4 * (raw - least);
    if (volume.kind === "mask") {
      const colour = gen3d.LABELS[(Math.round(value) - 1 + gen3d.LABELS.length) % gen3d.LABELS.length];
      table.set(value > 0 ? [...colour, 255 * (overlay ? 0.55 * look.opacity : 1)] : [0, 0, 0, overlay ? 0 : 255], at);
      continue;
    }
    const t = (value - low) / (high - low || 1);
    const strength = volume.kind === "difference" ? Math.abs(2 * t - 1) : Math.min(1, Math.max(0, t));
    const opacity = overlay ? look.opacity * Math.min(1, 3 * strength) : 1;
    table.set([...gen3d.RAMPS[volume.kind](t), 255 * opacity], at);
  }
  return { table, least };
};

// One slice as a small canvas, a pixel for each voxel.
gen3d.slice = function (volume, plane, index, colours) {
  const { across, columns, rows, up } = gen3d.PLANES[plane];
  const w = volume.dims[columns], h = volume.dims[rows];
  const canvas = document.createElement("canvas");
  canvas.width = w; canvas.height = h;
  const context = canvas.getContext("2d"), picture = context.createImageData(w, h), pixels = picture.data;
  const step = [1, volume.dims[0], volume.dims[0] * volume.dims[1]];
  for (let r = 0; r < h; r++) {
    let from = index * step[across] + r * step[rows], to = 4 * w * (up ? h - 1 - r : r);
    for (let c = 0; c < w; c++, from += step[columns], to += 4) {
      const at = 4 * (volume.data[from] - colours.least);
      pixels[to] = colours.table[at]; pixels[to + 1] = colours.table[at + 1];
      pixels[to + 2] = colours.table[at + 2]; pixels[to + 3] = colours.table[at + 3];
    }
  }
  context.putImageData(picture, 0, 0);
  return canvas;
};

// Where a slice lies in a canvas: the largest that fits, in the proportions of its millimetres.
gen3d.frame = function (volume, plane, width, height) {
  const { columns, rows } = gen3d.PLANES[plane];
  const wide = volume.dims[columns] * volume.spacing[columns], high = volume.dims[rows] * volume.spacing[rows];
  const scale = Math.min(width / wide, height / high);
  return { left: (width - wide * scale) / 2, top: (height - high * scale) / 2, width: wide * scale, height: high * scale };
};

// The borders of labels in a slice: each square of four voxels is crossed between the edges where labels differ.
gen3d.outline = function (context, volume, plane, index, frame, colour, thick) {
  const { across, columns, rows, up } = gen3d.PLANES[plane];
  const w = volume.dims[columns], h = volume.dims[rows], step = [1, volume.dims[0], volume.dims[0] * volume.dims[1]];
  const dx = frame.width / w, dy = frame.height / h;
  const at = (c, r) => (c < 0 || r < 0 || c >= w || r >= h ? 0
    : volume.data[index * step[across] + c * step[columns] + (up ? h - 1 - r : r) * step[rows]]);
  context.beginPath();
  for (let r = -1; r < h; r++) {
    for (let c = -1; c < w; c++) {
      const a = at(c, r), b = at(c + 1, r), d = at(c, r + 1), e = at(c + 1, r + 1);
      if (a === b && a === d && a === e) continue;
      const ends = [];
      if (a !== b) ends.push([0.5, 0]);
      if (b !== e) ends.push([1, 0.5]);
      if (d !== e) ends.push([0.5, 1]);
      if (a !== d) ends.push([0, 0.5]);
      const joints = ends.length === 2 ? [ends] : ends.map((end) => [end, [0.5, 0.5]]);
      for (const [from, to] of joints) {
        context.moveTo(frame.left + (c + 0.5 + from[0]) * dx, frame.top + (r + 0.5 + from[1]) * dy);
        context.lineTo(frame.left + (c + 0.5 + to[0]) * dx, frame.top + (r + 0.5 + to[1]) * dy);
      }
    }
  }
  context.strokeStyle = colour;
  context.lineWidth = thick;
  context.stroke();
};

// What nobody can miss, burnt into the picture.
gen3d.watermark = function (context, width, height, small) {
  context.save();
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillStyle = gen3d.AMBER;
  if (!small) {
    context.save();
    context.globalAlpha = 0.16;
    context.translate(width / 2, height / 2);
    context.rotate(-Math.atan2(height, width));
    context.font = `700 ${Math.round(Math.hypot(width, height) / 9)}px system-ui, sans-serif`;
    context.fillText("SYNTHETIC", 0, 0);
    context.restore();
  }
  const words = small ? "SYNTHETIC" : gen3d.WATERMARK;
  let size = Math.round(Math.min(width / 19, height / 13));
  if (small) size = Math.round(width / 9);
  context.font = `700 ${size}px system-ui, sans-serif`;
  const wide = context.measureText(words).width + size;
  context.globalAlpha = 0.72;
  context.fillStyle = "#0d1117";
  context.fillRect((width - wide) / 2, height - 1.7 * size, wide, 1.5 * size);
  context.globalAlpha = 1;
  context.fillStyle = gen3d.AMBER;
  context.fillText(words, width / 2, height - 0.93 * size);
  context.restore();
};
