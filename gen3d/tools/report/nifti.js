"use strict";
// Volumes: from base64 of a gzipped NIfTI-1 file to numbers with their place in the world.
const gen3d = {};

gen3d.bytes = async function (element) {
  const text = atob(element.textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

gen3d.volume = function (bytes, about) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const dims = [1, 2, 3].map((i) => Math.max(1, view.getInt16(40 + 2 * i, true)));
  const affine = [0, 1, 2].map((row) => [0, 1, 2, 3].map((col) => view.getFloat32(280 + 16 * row + 4 * col, true)));
  const start = bytes.byteOffset + view.getFloat32(108, true);
  const count = dims[0] * dims[1] * dims[2];
  const wide = view.getInt16(70, true) === 4;
  const raw = bytes.buffer.slice(start, start + count * (wide ? 2 : 1));
  const data = wide ? new Int16Array(raw) : new Uint8Array(raw);
  const slope = view.getFloat32(112, true) || 1;
  const offset = view.getFloat32(116, true) || 0;
  const spacing = [0, 1, 2].map((col) => Math.hypot(affine[0][col], affine[1][col], affine[2][col]));
  return { ...about, bytes, dims, affine, inverse: gen3d.inverse(affine), data, slope, offset, spacing };
};

gen3d.inverse = function (m) {
  const [a, b, c] = m[0], [d, e, f] = m[1], [g, h, i] = m[2];
  const det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  const r = [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ].map((row) => row.map((x) => x / det));
  return r.map((row) => [...row, -(row[0] * m[0][3] + row[1] * m[1][3] + row[2] * m[2][3])]);
};

gen3d.apply = (m, p) => m.map((row) => row[0] * p[0] + row[1] * p[1] + row[2] * p[2] + row[3]);

// The voxel at a place in mm, held inside the volume.
gen3d.voxelAt = (volume, mm) =>
  gen3d.apply(volume.inverse, mm).map((v, axis) => Math.min(volume.dims[axis] - 1, Math.max(0, Math.round(v))));

gen3d.raw = (volume, [x, y, z]) => volume.data[x + volume.dims[0] * (y + volume.dims[1] * z)];

gen3d.inside = (volume, mm) =>
  gen3d.apply(volume.inverse, mm).every((v, axis) => v > -0.501 && v < volume.dims[axis] - 0.499);

gen3d.valueAt = (volume, mm) => gen3d.raw(volume, gen3d.voxelAt(volume, mm)) * volume.slope + volume.offset;
