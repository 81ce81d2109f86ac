"use strict";
// The 3D view by NiiVue, which lies in the page; one for the whole page, since browsers allow few. Then the start.
gen3d.solid = { viewer: null, owner: null, busy: false };

gen3d.hasWebGL2 = () => Boolean(document.createElement("canvas").getContext("webgl2"));

gen3d.niivue = async function () {
  if (globalThis.Niivue) return globalThis.Niivue;
  const code = new TextDecoder().decode(await gen3d.bytes(document.getElementById("niivue")));
  await new Promise((resolve, reject) => {
    addEventListener("niivue", resolve, { once: true });
    const script = document.createElement("script");
    script.type = "module";
    script.addEventListener("error", reject);
    script.textContent = code;
    document.head.append(script);
  });
  return globalThis.Niivue;
};

gen3d.solidFails = function (box, words) {
  const note = box.querySelector(".note");
  note.textContent = words;
  note.hidden = false;
  box.querySelector("form").hidden = true;
  box.querySelector(".stage").hidden = true;
};

gen3d.solidStart = async function (owner) {
  const box = owner.section.querySelector(".solid"), solid = gen3d.solid;
  if (!box || solid.busy || solid.owner === owner) return;
  await owner.open();
  if (owner.flat) return gen3d.solidFails(box, "A single slice: there is nothing to show in 3D.");
  if (!gen3d.hasWebGL2()) {
    return gen3d.solidFails(box, "3D needs WebGL2, which this browser does not offer; the slices do without it.");
  }
  solid.busy = true;
  try {
    const Niivue = await gen3d.niivue();
    const stage = box.querySelector(".stage"), old = stage.querySelector("canvas");
    if (solid.owner) solid.owner.section.querySelector(".stage").hidden = true;
    solid.viewer?.gl?.getExtension("WEBGL_lose_context")?.loseContext();
    const canvas = old.cloneNode();
    old.replaceWith(canvas);
    stage.hidden = false;
    const viewer = new Niivue({
      backColor: [0.02, 0.03, 0.05, 1], crosshairColor: [0.22, 0.84, 1, 0.6], show3Dcrosshair: true, isColorbar: false, clipPlaneColor: [0, 0, 0, 0],
      isOrientCube: false, loadingText: "", dragAndDropEnabled: false, isRadiologicalConvention: true, logLevel: "error",
    });
    await viewer.attachToCanvas(canvas);
    viewer.onLocationChange = (place) => {
      if (solid.quiet || solid.owner !== owner) return;
      solid.quiet = true;
      owner.mm = [...place.mm].slice(0, 3);
      owner.draw();
      solid.quiet = false;
    };
    Object.assign(solid, { viewer, owner });
    await gen3d.solidShows();
  } catch (error) {
    gen3d.solidFails(box, `The 3D viewer did not start (${error?.message ?? error}); the slices do without it.`);
  } finally {
    solid.busy = false;
  }
};

// Puts the chosen panel into the viewer: the grey image, its colours above it.
gen3d.solidShows = async function () {
  const { viewer, owner } = gen3d.solid, form = owner.section.querySelector(".solid form"), number = form.elements.shown.value;
  const panel = owner.panels[number], choice = Math.max(0, owner.choices[number]);
  const numbers = [...(panel.under === null ? [] : [panel.under]), panel.images[choice]];
  const maps = { image: "gray", std: "inferno", probability: "viridis", difference: "warm", mask: "red" };
  const urls = [];
  const list = numbers.map((n, layer) => {
    const volume = owner.volumes[n], url = URL.createObjectURL(new Blob([volume.bytes]));
    urls.push(url);
    const signed = volume.kind === "difference";
    return {
      url, name: `volume-${n}.nii`, colormap: maps[volume.kind], opacity: layer || panel.under === null ? 1 : 0.9,
      cal_min: signed ? volume.high / 4 : volume.kind === "image" ? volume.low : (volume.high - volume.low) / 4,
      cal_max: volume.kind === "mask" ? 1 : volume.high,
      ...(signed ? { colormapNegative: "winter" } : {}),
    };
  });
  await viewer.loadVolumes(list);
  urls.forEach((url) => URL.revokeObjectURL(url));
  owner.section.querySelector(".solid .watermark").hidden = !panel.synthetic;
  viewer.setSliceType(Number(form.elements.view.value));
  gen3d.solidCut(form);
  gen3d.solidFollows(owner);
};

gen3d.solidCut = function (form) {
  const depth = Number(form.elements.depth.value) / 100, { viewer } = gen3d.solid;
  viewer.setClipPlane([depth <= -0.5 ? 2 : depth, 270, 0]);
  viewer.setRenderAzimuthElevation(Number(form.elements.turn.value), 15);
};

gen3d.solidFollows = function (owner) {
  const { viewer, quiet } = gen3d.solid;
  if (gen3d.solid.owner !== owner || quiet || !viewer?.volumes?.length) return;
  viewer.scene.crosshairPos = viewer.mm2frac(owner.mm);
  viewer.drawScene();
};

gen3d.begin = function () {
  const cases = [...document.querySelectorAll("details.case")].map((section) => {
    if (!section.querySelector(".data")) return null;
    const owner = new gen3d.Case(section), solid = section.querySelector(".solid");
    const failed = (error) => {
      const note = document.createElement("p");
      note.className = "note";
      note.textContent = `The images can't be shown (${error?.message ?? error}); the files themselves are untouched.`;
      section.querySelector(".panels").replaceChildren(note);
    };
    section.addEventListener("toggle", () => { if (section.open) owner.open().then(() => owner.draw()).catch(failed); });
    if (section.open) owner.open().catch(failed);
    solid?.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    solid?.querySelector("form").addEventListener("input", (event) => {
      if (gen3d.solid.owner !== owner) return;
      const { name, value } = event.target;
      if (name === "shown") gen3d.solidShows();
      if (name === "view") gen3d.solid.viewer.setSliceType(Number(value));
      if (name === "depth" || name === "turn") gen3d.solidCut(event.target.form);
    });
    solid?.querySelector("[name=start]").addEventListener("click", () => gen3d.solidStart(owner));
    return owner;
  });
  addEventListener("hashchange", () => gen3d.jump());
  gen3d.jump();
  const first = cases.find((owner) => owner?.section.open), stage = first?.section.querySelector(".solid");
  if (stage) {
    new IntersectionObserver((seen, watcher) => {
      if (!seen.some((entry) => entry.isIntersecting)) return;
      watcher.disconnect();
      gen3d.solidStart(first);
    }).observe(stage);
  }
};

gen3d.jump = function () {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) { target.open = true; target.scrollIntoView(); }
};

gen3d.begin();
