// What one sees and moves. All text from the run (classes, files) goes in as text, never as markup.
const root = document.getElementById("explorer-live");
const facts = JSON.parse(document.getElementById("explorer-facts").textContent);

const element = (name, properties = {}, ...inside) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "style") for (const [k, v] of Object.entries(value)) made.style.setProperty(k, v);
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && !key.startsWith("aria")) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...inside.flat());
  return made;
};
const say = (text) => { document.getElementById("said").textContent = text; };
const number = (x, digits = 2) => (Object.is(+x.toFixed(digits), -0) ? 0 : x).toFixed(digits).replace("-", "−");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const capital = (text) => text[0].toUpperCase() + text.slice(1);

// ---- pictures

const [height, width, channels] = facts.shape.length === 3 ? facts.shape : [0, 0, 0];
const pictured = facts.shape.length === 3;
const size = facts.shape.reduce((a, b) => a * b, 1);

// Numbers in [0, 1] on a canvas: grey, RGB, RGBA over white, or of others the first channel.
const paint = (canvas, values) => {
  if (!pictured) { curve(canvas, values); return; }
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let i = 0, o = 0; i < size; i += channels, o += 4) {
    for (let c = 0; c < 3; c++) {
      let value = values[i + (channels === 3 || channels === 4 ? c : 0)];
      if (channels === 4) value = value * values[i + 3] + 1 - values[i + 3];
      image.data[o + c] = Math.round(255 * Math.min(1, Math.max(0, value)));
    }
    image.data[o + 3] = 255;
  }
  context.putImageData(image, 0, 0);
};

// A vector is drawn as a line.
const curve = (canvas, values) => {
  [canvas.width, canvas.height] = [480, 320];
  const context = canvas.getContext("2d");
  context.strokeStyle = colour("--accent");
  context.lineWidth = 2;
  context.beginPath();
  for (let i = 0; i < size; i++) {
    const x = 20 + (440 * i) / Math.max(1, size - 1), y = 300 - 280 * Math.min(1, Math.max(0, values[i]));
    if (i) context.lineTo(x, y); else context.moveTo(x, y);
  }
  context.stroke();
};

const start = async () => {
  const { arrays, graphs, named } = facts.packed, live = "decode" in graphs;
  const unpacking = unpacked(), hosting = live ? hosted({ arrays, graphs }, unpacking) : null;
  const bytes = await unpacking, { stored } = flaxvaeEngine();
  const array = (name) => stored(bytes, arrays, arrays[named[name]]).data;
  const has = (name) => name in named;
  const pictures = array("pictures"), codes = array("codes");
  const mean = array("mean"), sd = array("sd");
  const directions = has("directions") ? array("directions") : null;
  const latents = facts.latents, discrete = Boolean(facts.grid);
  const length = discrete ? facts.grid.shape[0] * facts.grid.shape[1] : latents;
  const images = pictures.length / size, classes = facts.classes;
  const tiles = live ? null : array("tiles");
  const run = await hosting;
  const noise = (name) => {
    const id = graphs[name].inputs.noise, needed = id === undefined ? 0 : graphs[name].shapes[id][1];
    return needed ? Float32Array.from({ length: needed[0] * needed[1] }, random) : undefined;
  };
  let state = 1; // mulberry32, so that a page's draws are the same each time it opens
  const random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), 1 | state);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return Math.fround((((x ^ (x >>> 14)) >>> 0) >>> 9) / 2 ** 23);
  };
  const picture = (i) => Float32Array.from(pictures.subarray(i * size, (i + 1) * size), (x) => x / 255);
  const codeOf = (i) => Float32Array.from(codes.subarray(i * length, (i + 1) * length));
  const nameOf = (i) => {
    const said = [`test ${facts.example} ${i + 1}`];
    if (facts.labels) said.push(`class ${facts.names[facts.labels[i]]}`);
    if (facts.files) said.push(facts.files[i]);
    return said.join(", ");
  };

  // ---- where we are

  const middle = new Float32Array(latents);
  if (!discrete && !facts.standard) middle.set(mean);
  const here = {
    z: discrete ? codeOf(0) : middle.slice(), label: classes ? classes.length >> 1 : 0,
    place: null, // of a picture of the reader's, in z
    image: discrete ? 0 : null, // the test image whose code this is
    said: "",
  };
  const labelled = (inputs) => (classes ? { ...inputs, label: Int32Array.of(here.label) } : inputs);
  const watchers = [];

  const screen = element("canvas", { role: "img", id: "explorer-image" });
  const caption = element("figcaption");
  if (pictured) {
    [screen.width, screen.height] = [width, height];
    screen.style.setProperty("--shape", `${width} / ${height}`);
  } else screen.style.setProperty("--shape", "3 / 2");

  // The newest place is decoded as soon as the one before it is done; those between are skipped.
  let wanted = false, busy = false, frames = 0, touched = 0, shown = null;
  const decode = async () => {
    wanted = true;
    if (busy) return;
    busy = true;
    while (wanted) {
      wanted = false;
      const point = discrete ? { indices: here.z } : { z: here.z };
      shown = live ? (await run("decode", labelled(point))).image : tile();
      paint(screen, shown);
      root.dataset.frames = ++frames;
    }
    busy = false;
  };
  const moved = (what) => {
    touched = performance.now();
    if (what !== undefined) here.said = what;
    caption.textContent = here.said;
    screen.setAttribute("aria-label", `Decoded ${facts.example}: ${here.said}`);
    for (const watch of watchers) watch();
    decode();
  };
  let moves = 0;
  const go = (z, what, image = null) => {
    moves++;
    here.z = discrete ? Int32Array.from(z) : Float32Array.from(z);
    here.image = image;
    moved(what);
  };

  // Of some hierarchies the image depends on the lowest level alone. If a dimension above moves, all
  // columns of the KL below it go to their prior means; ``then`` puts back what is to be elsewhere.
  const unread = (unit) => unit >= facts.read && "redraw" in graphs;
  const column = []; // of the KL, by dimension
  facts.levels?.blocks.forEach((count, i) => {
    for (let block = 0; block < count; block++) {
      column.push(...Array(facts.levels.sizes[i]).fill((column.at(-1) ?? -1) + 1));
    }
  });
  const lowered = async (z, unit, what, then = () => {}) => {
    const own = ++moves, temperature = new Float32Array(column.at(-1) + 1);
    const found = await run("redraw", { z, below: Int32Array.of(column[unit]), temperature, noise: 0.5 });
    if (own !== moves) return;
    then(found.z);
    go(found.z, what);
  };

  // ---- the plane: two axes, each a latent dimension or a principal direction of the codes

  const axes = [];
  const levelOf = facts.levels?.names.flatMap((name, i) => Array(facts.levels.blocks[i]).fill(name));
  if (!discrete) {
    if (directions) {
      for (let i = 0; i < 2; i++) {
        const direction = directions.subarray(i * latents, (i + 1) * latents);
        const part = (100 * facts.explained[i]).toFixed(0);
        axes.push({ name: `principal direction ${i + 1}`, more: `${part} % of variance`, direction });
      }
    }
    for (const unit of facts.order.slice(0, 64)) {
      const direction = new Float32Array(latents);
      direction[unit] = 1;
      const level = facts.levels ? `${levelOf[column[unit]]}, ` : "", much = facts.usage[unit];
      const usage = `${level}${facts.measure} ${much === null ? "not finite" : number(much)}`;
      axes.push({ name: `z${unit + 1}`, more: usage, direction, unit });
    }
    for (const axis of axes) {
      const along = (z, from = 0) => {
        let sum = 0;
        for (let d = 0; d < latents; d++) sum += (z[from + d] - middle[d]) * axis.direction[d];
        return sum;
      };
      axis.along = along;
      axis.points = Float32Array.from({ length: images }, (_, i) => along(codes, i * latents));
      axis.offset = axis.unit === undefined ? 0 : middle[axis.unit]; // shown values are z's own
    }
  }
  const plane = { x: axes[0], y: axes[1] ?? axes[0], canvas: null };
  const reach = () => {
    if (!live) return facts.reach[1];
    let most = facts.standard ? 3 : 0;
    for (const axis of [plane.x, plane.y]) for (const x of axis.points) most = Math.max(most, Math.abs(x));
    return most * 1.06 || 1;
  };
  const tile = () => { // of a precomputed grid, the nearest one
    const n = Math.round(Math.sqrt(tiles.length / size)), far = facts.reach[1];
    const cell = (at) => Math.max(0, Math.min(n - 1, Math.round(((at + far) / (2 * far)) * (n - 1))));
    const at = (n - 1 - cell(plane.y.along(here.z))) * n + cell(plane.x.along(here.z));
    return Float32Array.from(tiles.subarray(at * size, (at + 1) * size), (x) => x / 255);
  };

  const drawPlane = () => {
    const { canvas } = plane;
    const side = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
    if (canvas.width !== side) canvas.width = canvas.height = side;
    const context = canvas.getContext("2d"), scale = devicePixelRatio, far = reach();
    const across = (v) => ((v + far) / (2 * far)) * side, down = (v) => side - across(v);
    context.clearRect(0, 0, side, side);
    context.font = `${11 * scale}px system-ui, sans-serif`;
    context.lineWidth = scale;
    const step = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 25, 50, 100].find((s) => far / s <= 4) ?? far;
    const digits = step >= 1 ? 0 : step >= 0.05 ? 2 : 4;
    for (let v = -Math.floor(far / step) * step; v <= far; v += step) {
      context.strokeStyle = colour("--rule");
      context.beginPath();
      context.moveTo(across(v), 0); context.lineTo(across(v), side);
      context.moveTo(0, down(v)); context.lineTo(side, down(v));
      context.stroke();
      context.fillStyle = colour("--soft");
      const inside = Math.abs(v) < far * 0.93;
      if (inside) context.fillText(number(v + plane.x.offset, digits), across(v) + 3 * scale, side - 4 * scale);
      if (inside && v) context.fillText(number(v + plane.y.offset, digits), 4 * scale, down(v) - 3 * scale);
    }
    const shades = Array.from({ length: 10 }, (_, i) => colour(`--k${i}`));
    context.globalAlpha = 0.75;
    for (let i = 0; i < images; i++) {
      const label = facts.labels?.[i] ?? 0;
      context.fillStyle = (facts.names?.length ?? 1) > 10
        ? `hsl(${(360 * label) / facts.names.length} 55% ${colour("--tone")})` : shades[label % 10];
      context.beginPath();
      context.arc(across(plane.x.points[i]), down(plane.y.points[i]), 2.6 * scale, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
    const mark = (z, text) => {
      const [x, y] = [across(plane.x.along(z)), down(plane.y.along(z))];
      context.strokeStyle = colour("--ink");
      context.lineWidth = 2 * scale;
      context.beginPath();
      context.arc(x, y, (text ? 6 : 8) * scale, 0, 7);
      context.stroke();
      context.fillStyle = colour("--ink");
      if (text) context.fillText(text, x + 9 * scale, y + 4 * scale);
    };
    walk.ends.forEach((i, end) => { if (i !== null) mark(codeOf(i), "AB"[end]); });
    if (here.place) mark(here.place, "yours");
    mark(here.z);
    canvas.setAttribute(
      "aria-label",
      `Latent plane: ${plane.x.name} ${number(plane.x.along(here.z) + plane.x.offset)}, `
      + `${plane.y.name} ${number(plane.y.along(here.z) + plane.y.offset)}. Arrow keys move.`);
  };
  let planned = false;
  const planPlane = () => {
    if (planned || discrete) return;
    planned = true;
    requestAnimationFrame(() => { planned = false; drawPlane(); });
  };

  // Move to where the projections on the plane's axes are x and y; the rest of z stays.
  const place = (x, y, aloud) => {
    const z = here.z.slice(), u = plane.x.direction, v = plane.y.direction;
    // The axes need not be orthogonal; where they are nearly one, only the first is followed.
    const shared = u.reduce((sum, value, d) => sum + value * v[d], 0), rest = 1 - shared * shared;
    const project = (z) => {
      let across = x - plane.x.along(z), up = y - plane.y.along(z);
      if (rest > 1e-3) [across, up] = [(across - shared * up) / rest, (up - shared * across) / rest];
      else up = 0;
      for (let d = 0; d < latents; d++) z[d] += across * u[d] + up * v[d];
    };
    project(z);
    const both = plane.x === plane.y ? [plane.x] : [plane.x, plane.y];
    const said = both.map((axis) => `${axis.name} ${number(axis.along(z) + axis.offset)}`).join(", ");
    const above = [plane.x.unit, plane.y.unit].filter(unread);
    if (above.length) lowered(z, Math.min(...above), said, project); else go(z, said);
    if (aloud) say(said);
  };

  const planeView = () => {
    const canvas = element("canvas", { tabIndex: 0, role: "application", id: "explorer-plane" });
    canvas.setAttribute("aria-roledescription", "plane");
    plane.canvas = canvas;
    const follow = (event) => {
      const box = canvas.getBoundingClientRect(), far = reach();
      const unit = (at) => Math.max(-far, Math.min(far, (2 * at - 1) * far));
      place(unit((event.clientX - box.left) / box.width), unit(1 - (event.clientY - box.top) / box.height));
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      follow(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (canvas.hasPointerCapture(event.pointerId)) follow(event);
    });
    canvas.addEventListener("keydown", (event) => {
      const step = reach() * (event.shiftKey ? 0.2 : 0.04);
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!move) return;
      event.preventDefault();
      place(plane.x.along(here.z) + step * move[0], plane.y.along(here.z) + step * move[1], true);
    });
    new ResizeObserver(planPlane).observe(canvas);
    watchers.push(planPlane);
    addEventListener("themechange", planPlane);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", planPlane);
    const choose = (which, name) => element("label", {}, name, element("select", {
      onchange: (event) => { plane[which] = axes[event.target.selectedIndex]; planPlane(); },
    }, axes.map((axis, i) => element("option", {
      textContent: `${axis.name} · ${axis.more}`, selected: axes[i] === plane[which],
    }))));
    const legend = facts.names && facts.labels && facts.names.length <= 10
      ? [element("ul", { className: "legend spots" }, facts.names.map((name, i) => element("li", { className: `k${i}`, textContent: name })))] : [];
    return element("figure", { className: "ex-plane" }, canvas, element("figcaption", {},
      `Codes of ${images} test ${facts.example}s. Drag, or use the arrow keys.`),
    legend,
    live ? element("div", { className: "ex-row" }, choose("x", "across"), choose("y", "up")) : []);
  };

  // ---- a slider for each dimension, the most used first

  const slider = (name, options, change) => {
    const input = element("input", { type: "range", ...options });
    input.setAttribute("aria-label", name);
    input.addEventListener("input", () => change(+input.value));
    return input;
  };
  const bands = [];
  const sliderOf = (axis) => {
    const unit = axis.unit, scale = facts.standard ? 1 : sd[unit] || 1;
    let most = 3.5 * scale; // and as far as the codes go
    for (const x of axis.points) most = Math.max(most, Math.abs(x));
    const [low, high] = [middle[unit] - most, middle[unit] + most];
    const output = element("output");
    const band = element("span", { className: "ex-spread", hidden: true });
    const name = `${axis.name}, ${axis.more}`;
    const input = slider(name, { min: low, max: high, step: (high - low) / 400, value: here.z[unit] }, (at) => {
      const z = here.z.slice();
      z[unit] = at;
      const said = `${axis.name} ${number(at)}`;
      if (unread(unit)) lowered(z, unit, said); else go(z, said);
    });
    const update = () => {
      const at = here.z[unit];
      if (document.activeElement !== input || +input.value !== at) input.value = at;
      output.textContent = spread ? `${number(at)} ± ${number(spread[unit])}` : number(at);
      if (!spread) return;
      // The middle of the thumb runs from half a thumb to the width less half a thumb.
      const share = (value) => Math.max(0, Math.min(1, (value - low) / (high - low)));
      const from = share(at - spread[unit]), to = share(at + spread[unit]);
      band.hidden = false;
      band.style.left = `calc(${100 * from}% + ${8 - 16 * from}px)`;
      band.style.width = `calc(${100 * (to - from)}% - ${16 * (to - from)}px)`;
      band.title = `posterior spread ${number(spread[unit])}`;
      input.title = `${name}; q(z|x) spreads by ${number(spread[unit])} on average`;
    };
    bands.push(update);
    watchers.push(update);
    update();
    return element("div", { className: "ex-slider" }, element("span", {}, axis.name, " ", element("span", { className: "soft", textContent: axis.more })),
      element("span", { className: "ex-track" }, band, input), output);
  };
  const sliders = () => {
    const own = axes.filter((axis) => axis.unit !== undefined);
    const first = own.slice(0, 10), rest = own.slice(10, 40);
    const note = element("p", { className: "soft", id: "explorer-spread", hidden: !("bound" in graphs), style: { visibility: "hidden" } },
      `What follows ± is a posterior standard deviation, averaged over the test ${facts.example}s; the slider is shaded as far.`);
    const others = facts.levels && facts.read < latents
      ? [element("p", { className: "soft", textContent: `The image depends on ${facts.levels.names[0]} alone. If a dimension of another level moves, all levels below it go to their prior means.` })] : [];
    const found = [element("h3", { textContent: "Dimensions" }), ...others, note, element("div", { className: "ex-sliders" }, first.map(sliderOf))];
    if (rest.length) {
      found.push(element("details", {}, element("summary", { textContent: `${rest.length} more` }),
        element("div", { className: "ex-sliders" }, rest.map(sliderOf))));
    }
    return found;
  };

  // ---- test images, and the walk between two of them

  const walk = { ends: [null, null], next: 0, playing: false };
  const thumb = () => element("canvas", { "aria-hidden": "true" });
  const paintThumbs = async (canvases) => { // a few at a time, while the model starts
    for (const [i, canvas] of canvases.entries()) {
      if (i % 32 === 31) await new Promise((resolve) => { setTimeout(resolve); });
      paint(canvas, picture(i));
    }
  };
  const between = (t, spherical) => {
    const [a, b] = walk.ends.map(codeOf);
    let dot = 0, aa = 0, bb = 0;
    for (let d = 0; d < latents; d++) { dot += a[d] * b[d]; aa += a[d] * a[d]; bb += b[d] * b[d]; }
    const angle = Math.acos(Math.max(-1, Math.min(1, dot / Math.sqrt(aa * bb || 1))));
    const round = spherical && Math.sin(angle) > 1e-4;
    const u = round ? Math.sin((1 - t) * angle) / Math.sin(angle) : 1 - t;
    const v = round ? Math.sin(t * angle) / Math.sin(angle) : t;
    return a.map((x, d) => u * x + v * b[d]);
  };
  const strip = () => {
    const buttons = Array.from({ length: images }, (_, i) => element("button", {
      type: "button", title: nameOf(i), tabIndex: i ? -1 : 0, "aria-label": nameOf(i), "aria-pressed": "false",
      onclick: () => {
        if (classes && facts.labels) here.label = facts.labels[i];
        stop();
        walk.ends[walk.next] = i;
        walk.next = 1 - walk.next;
        mark();
        go(codeOf(i), `at the code of ${nameOf(i)}`, i);
      },
    }, thumb()));
    paintThumbs(buttons.map((button) => button.firstChild));
    const list = element("div", { className: "ex-strip", role: "group", "aria-label": `Test ${facts.example}s` }, buttons);
    list.addEventListener("keydown", (event) => { // one stop of the tab key, arrows inside
      const at = buttons.indexOf(document.activeElement);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: images - 1 }[event.key];
      if (to === undefined || !buttons[to]) return;
      event.preventDefault();
      buttons[at].tabIndex = -1;
      buttons[to].tabIndex = 0;
      buttons[to].focus();
    });
    const mark = () => {
      buttons.forEach((button, i) => {
        const end = discrete ? -1 : walk.ends.indexOf(i);
        button.setAttribute("aria-pressed", String(end >= 0 || (discrete && here.image === i)));
        if (end >= 0) button.dataset.end = "AB"[end]; else delete button.dataset.end;
      });
      play.disabled = along.disabled = walk.ends.includes(null);
    };
    const path = element("select", {}, ["straight", "spherical"].map((name) => element("option", { textContent: name })));
    const along = slider("Position on the walk from A to B", { min: 0, max: 1, step: 0.005, value: 0, disabled: true }, (t) => { stop(); step(t); });
    const step = (t) => {
      along.value = t;
      go(between(t, path.selectedIndex === 1), `${(100 * t).toFixed(0)} % of the way from A to B`);
    };
    const stop = () => { walk.playing = false; play.textContent = "Play the walk"; };
    const play = element("button", { type: "button", textContent: "Play the walk", disabled: true, onclick: () => {
      if (walk.playing) { stop(); return; }
      walk.playing = true;
      play.textContent = "Stop";
      let began = null;
      const tick = (now) => {
        if (!walk.playing) return;
        began ??= now;
        const phase = ((now - began) / 3000) % 2; // there in three seconds, and back
        step(phase < 1 ? phase : 2 - phase);
        requestAnimationFrame(tick);
      };
      requestAnimationFrame(tick);
    } });
    strip.mark = mark;
    const hint = discrete ? "Choose one to see its codes." : "Choose one to see its code decoded; choose two, A and B, to walk from one to the other.";
    return [element("h3", { textContent: `Test ${facts.example}s` }), element("p", { className: "soft", textContent: hint }), list,
      discrete ? [] : element("div", { className: "ex-row" }, play, element("label", {}, "position", along), element("label", {}, "path", path))];
  };

  // ---- draws from the prior, the class, levels

  const controls = () => {
    const made = [];
    if (classes) {
      const select = element("select", { id: "explorer-class", onchange: () => { here.label = select.selectedIndex; moved(); } },
        classes.map((name, i) => element("option", { textContent: name, selected: i === here.label })));
      watchers.push(() => { select.selectedIndex = here.label; });
      made.push(element("label", {}, "class", select));
    }
    if ("sample" in graphs) {
      let numbers = null;
      const draw = async () => {
        const { z } = await run("sample", { temperature: temperature.valueAsNumber, noise: numbers });
        go(z, `${facts.random ? "random codes z ~ N(0, I)" : "a draw from the prior"}, temperature ${number(temperature.valueAsNumber)}`);
      };
      const temperature = slider("Temperature", { min: 0, max: 1.5, step: 0.05, value: 1, id: "explorer-temperature" }, () => {
        output.textContent = number(temperature.valueAsNumber);
        if (numbers !== null) draw();
      });
      const output = element("output", { textContent: "1.00" });
      made.push(element("button", { type: "button", id: "explorer-sample", textContent: facts.random ? "Random codes" : "Draw from the prior", onclick: () => { numbers = noise("sample"); draw(); } }),
        element("label", {}, "temperature", temperature, output));
    }
    if (discrete && facts.uniform) {
      made.push(element("button", { type: "button", id: "explorer-sample", textContent: "Draw from the prior", onclick: () => {
        go(Int32Array.from({ length }, () => Math.floor(random() * facts.grid.size)), "a draw from the prior: codes at random");
      } }));
    }
    if (!discrete) made.push(element("button", { type: "button", textContent: "Back to the middle", onclick: () => go(middle, facts.standard ? "the prior’s mean" : "the mean code") }));
    return made.length ? element("div", { className: "ex-row" }, made) : "";
  };

  const levels = () => {
    const { names, blocks } = facts.levels;
    let held = null, numbers = noise("redraw"), count = names.length - 1, turn = 0;
    const temperatures = names.map(() => 1);
    const redraw = async () => {
      held ??= here.z.slice();
      const own = ++turn, below = blocks.slice(0, count).reduce((a, b) => a + b, 0);
      const each = temperatures.flatMap((t, i) => Array(blocks[i]).fill(t));
      const { z } = await run("redraw", { z: held, below: Int32Array.of(below), temperature: Float32Array.from(each), noise: numbers });
      if (own !== turn) return;
      const again = names.slice(0, count).join(", ");
      keeping = true;
      go(z, count ? `drawn anew: ${again}` : "all levels held");
      keeping = false;
    };
    let keeping = false; // a move of another kind is the new place to hold
    watchers.push(() => { if (!keeping) held = null; });
    const output = element("output");
    const label = () => { output.textContent = count ? names.slice(0, count).join(", ") : "none"; };
    label();
    const many = slider("Levels drawn anew, from the image upwards", { min: 0, max: names.length, step: 1, value: count, id: "explorer-levels" }, (n) => { count = n; label(); redraw(); });
    const each = names.map((name, i) => {
      const said = element("output", { textContent: "1.00" });
      return element("label", {}, `temperature of ${name}`, slider(`Temperature of ${name}`, { min: 0, max: 1.5, step: 0.05, value: 1 }, (t) => {
        temperatures[i] = t;
        said.textContent = number(t);
        redraw();
      }), said);
    });
    return [element("h3", { textContent: "Levels" }),
      element("p", { className: "soft", textContent: "The upper levels are held, the lower ones drawn anew from the prior given them." }),
      element("div", { className: "ex-row" }, element("label", {}, "draw anew", many, output),
        element("button", { type: "button", id: "explorer-redraw", textContent: "Draw again", onclick: () => { numbers = noise("redraw"); redraw(); } })),
      element("div", { className: "ex-row" }, each)];
  };

  // ---- discrete codes: a grid of cells

  const codeGrid = () => {
    const [rows, columns] = facts.grid.shape, most = facts.grid.size - 1;
    let chosen = 0;
    const wide = rows === 1 ? Math.min(columns, 10) : columns;
    const set = (code) => {
      const z = here.z.slice();
      z[chosen] = Math.max(0, Math.min(most, code));
      go(z, `cell ${chosen + 1}: code ${z[chosen]}`);
      say(`code ${z[chosen]}`);
    };
    const cells = Array.from({ length }, (_, i) => element("button", {
      type: "button", tabIndex: i ? -1 : 0, onclick: () => choose(i), onfocus: () => choose(i),
    }));
    const choose = (i) => {
      cells[chosen].tabIndex = -1;
      chosen = i;
      cells[i].tabIndex = 0;
      update();
    };
    const input = slider("Code of the chosen cell", { min: 0, max: most, step: 1, id: "explorer-code" }, set);
    const exact = element("input", { type: "number", min: 0, max: most, step: 1, "aria-label": "Code of the chosen cell, as a number",
      onchange: () => { if (Number.isInteger(exact.valueAsNumber)) set(exact.valueAsNumber); } });
    const grid = element("div", { className: "ex-codes", role: "group", id: "explorer-codes", "aria-label": "Codes", style: { "--columns": wide } }, cells);
    grid.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -wide, ArrowDown: wide }[event.key];
      const change = { "+": 1, "=": 1, "-": -1, PageUp: 10, PageDown: -10 }[event.key];
      const around = (code) => ((code % (most + 1)) + most + 1) % (most + 1); // codes have no order
      if (change) { event.preventDefault(); set(around(here.z[chosen] + change)); }
      if (move === undefined || !cells[chosen + move]) return;
      event.preventDefault();
      cells[chosen + move].focus();
    });
    const update = () => {
      cells.forEach((cell, i) => {
        const code = here.z[i];
        cell.textContent = code;
        cell.style.setProperty("--h", Math.round(code * 137.5) % 360);
        cell.setAttribute("aria-label", `Cell ${i + 1}, code ${code}`);
        cell.setAttribute("aria-pressed", String(i === chosen));
      });
      input.value = exact.value = here.z[chosen];
    };
    watchers.push(update);
    update();
    return element("figure", { className: "ex-plane" }, grid, element("figcaption", {},
      `The ${length} codes of this ${facts.example}, each one of ${most + 1}. Choose a cell and change its code; with the keyboard, arrows move and + and − change.`),
    element("div", { className: "ex-row" }, element("label", {}, "code", input), exact));
  };

  // ---- a picture of the reader's: drawn, dropped or chosen

  let spread = null; // [D] how far draws from q(z|x) are from the code, on average
  const scores = []; // of the test images, as they come
  const scored = async (values, label) => { // with one draw of z
    const inputs = { image: values, noise: noise("bound") };
    if (classes) inputs.label = Int32Array.of(label);
    const { cost, kl } = await run("bound", inputs);
    return cost[0] + kl[0];
  };

  const own = () => {
    const factor = Math.max(1, Math.round(280 / Math.max(height, width)));
    const pad = element("canvas", { width: width * factor, height: height * factor, tabIndex: 0, className: "ex-draw", id: "explorer-pad", role: "application" });
    pad.setAttribute("aria-roledescription", "drawing pad");
    pad.setAttribute("aria-label", "Drawing pad. Draw with the pointer; or move the pen with the arrow keys, and press space to put it down or lift it.");
    const context = pad.getContext("2d", { willReadFrequently: true });
    const seen = element("canvas", { role: "img", "aria-label": "What the model sees" });
    const again = element("canvas", { role: "img", "aria-label": "Its reconstruction" });
    const near = element("div");
    const text = element("p", { role: "status", id: "explorer-score", textContent: "Draw something, or drop a picture here." });
    const inverted = element("input", { type: "checkbox", onchange: () => look(true) });
    const ink = element("input", { type: "color", value: "#ffffff" });
    const brush = slider("Width of the pen", { min: 1, max: 5, step: 0.25, value: 2.25 }, () => {});
    let empty = true;
    const clear = () => {
      context.fillStyle = "#000";
      context.fillRect(0, 0, pad.width, pad.height);
      empty = true;
      here.place = null;
      text.textContent = "Draw something, or drop a picture here.";
      for (const canvas of [seen, again]) paint(canvas, new Float32Array(size));
      near.replaceChildren();
      planPlane();
    };
    // The mean of the pad's pixels under each of the model's.
    const pixels = () => {
      const { data } = context.getImageData(0, 0, pad.width, pad.height), values = new Float32Array(size);
      const weight = channels >= 3 ? null : [0.299, 0.587, 0.114];
      for (let y = 0; y < pad.height; y++) {
        for (let x = 0; x < pad.width; x++) {
          const from = 4 * (y * pad.width + x);
          const to = (Math.floor(y / factor) * width + Math.floor(x / factor)) * channels;
          for (let c = 0; c < channels; c++) {
            const value = c === 3 ? 255 : weight
              ? weight[0] * data[from] + weight[1] * data[from + 1] + weight[2] * data[from + 2] : data[from + Math.min(c, 2)];
            values[to + c] += value / (255 * factor * factor);
          }
        }
      }
      return values.map((x, i) => {
        const one = inverted.checked && (channels < 4 || i % channels < 3) ? 1 - x : x;
        return facts.binary ? +(one >= 0.5) : Math.min(1, one);
      });
    };
    let latest = 0, working = false, due = null;
    const look = async (settled) => { // the newest drawing, its score when the pen is up
      due = { settled };
      if (working || empty) return;
      working = true;
      while (due) {
        const { settled } = due, mine = ++latest;
        due = null;
        const values = pixels(), label = here.label;
        const inputs = classes ? { image: values, label: Int32Array.of(label) } : { image: values };
        const found = await run("look", inputs), code = found.z ?? found.indices;
        if (empty) continue; // cleared in the meantime
        paint(seen, values);
        paint(again, found.image);
        here.place = discrete ? null : code;
        go(code, `at the code of your ${facts.example}`);
        neighbours(code);
        if (settled && "bound" in graphs) await score(values, label, mine);
      }
      working = false;
    };
    const score = async (values, label, mine) => {
      delete text.dataset.score;
      text.textContent = "Computing its score …";
      const draws = 16;
      const found = [];
      for (let i = 0; i < draws; i++) {
        found.push(await scored(values, label));
        if (due || mine !== latest || empty) return;
      }
      const total = found.reduce((a, b) => a + b) / draws;
      const error = Math.sqrt(found.reduce((sum, x) => sum + (x - total) ** 2, 0) / (draws - 1) / draws);
      const [name, usual] = facts.score;
      const given = classes ? `, given class ${classes[label]}` : "";
      const below = scores.filter((x) => x < total).length;
      const among = scores.length >= 8 ? ` It is higher than that of ${below} of ${scores.length} test ${facts.example}s.` : "";
      text.textContent = `Its score, ${name}${given}: ${number(total, 1)} ± ${number(error, 1)} nats, averaged over ${draws} draws, with its standard error; the mean of the test ${facts.example}s is ${usual === null ? "not finite" : number(usual, 1)}.${among}`;
      text.dataset.score = total;
      text.dataset.error = error;
    };
    const neighbours = (code) => { // the test images with the nearest codes
      const far = Array.from({ length: images }, (_, i) => {
        let sum = 0;
        for (let d = 0; d < length; d++) {
          const gap = codes[i * length + d] - code[d];
          sum += discrete ? +(gap !== 0) : gap * gap;
        }
        return [sum, i];
      }).sort((a, b) => a[0] - b[0]).slice(0, 5);
      near.replaceChildren(...far.map(([, i]) => {
        const canvas = element("canvas", { role: "img", "aria-label": nameOf(i), title: nameOf(i) });
        paint(canvas, picture(i));
        return canvas;
      }));
    };

    // The pen: a line of round ends, in the pad's pixels.
    let last = null;
    const line = (x, y) => {
      context.strokeStyle = channels >= 3 ? ink.value : "#fff";
      context.lineWidth = (brush.valueAsNumber * pad.width) / Math.max(20, width);
      context.lineCap = context.lineJoin = "round";
      context.beginPath();
      context.moveTo(...(last ?? [x, y]));
      context.lineTo(x, y + 0.01);
      context.stroke();
      last = [x, y];
      empty = false;
    };
    const at = (event) => {
      const box = pad.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * pad.width, ((event.clientY - box.top) / box.height) * pad.height];
    };
    pad.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      pad.setPointerCapture(event.pointerId);
      last = null;
      line(...at(event));
      look(false);
    });
    pad.addEventListener("pointermove", (event) => {
      if (!pad.hasPointerCapture(event.pointerId)) return;
      for (const each of event.getCoalescedEvents?.() ?? [event]) line(...at(each));
      line(...at(event));
      look(false);
    });
    pad.addEventListener("pointerup", () => look(true));
    const pen = { x: pad.width / 2, y: pad.height / 2, down: false };
    pad.addEventListener("keydown", (event) => {
      const step = pad.width / 24;
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (event.key === " ") {
        pen.down = !pen.down;
        last = null;
        if (pen.down) line(pen.x, pen.y);
        say(pen.down ? "pen down" : "pen up");
        look(!pen.down);
      } else if (move) {
        pen.x = Math.max(0, Math.min(pad.width, pen.x + step * move[0]));
        pen.y = Math.max(0, Math.min(pad.height, pen.y + step * move[1]));
        if (pen.down) { line(pen.x, pen.y); look(false); }
        say(`pen at ${Math.round((100 * pen.x) / pad.width)} % across, ${Math.round((100 * pen.y) / pad.height)} % down`);
      } else return;
      event.preventDefault();
    });

    // A picture fills the pad; what is too long is cut off, as in a training on pictures.
    const take = async (file) => {
      let bitmap;
      try {
        bitmap = await createImageBitmap(file);
      } catch {
        text.textContent = `${file.name} cannot be read as a picture: expected a PNG, JPEG, GIF or WebP file.`;
        return;
      }
      const scale = Math.max(pad.width / bitmap.width, pad.height / bitmap.height);
      const [w, h] = [bitmap.width * scale, bitmap.height * scale];
      context.fillStyle = "#fff"; // behind what is transparent
      context.fillRect(0, 0, pad.width, pad.height);
      // Of the model's own size, or a multiple that fits, it keeps its very pixels.
      context.imageSmoothingEnabled = pad.width % bitmap.width !== 0 || pad.height % bitmap.height !== 0;
      context.imageSmoothingQuality = "high";
      context.drawImage(bitmap, (pad.width - w) / 2, (pad.height - h) / 2, w, h);
      empty = false;
      look(true);
    };
    const file = element("input", { type: "file", accept: "image/*", id: "explorer-file", onchange: () => { if (file.files[0]) take(file.files[0]); } });
    const results = element("div", { className: "ex-results" },
      element("figure", {}, seen, element("figcaption", { textContent: "what the model sees" })),
      element("figure", {}, again, element("figcaption", { textContent: "its reconstruction" })),
      element("figure", { className: "ex-near" }, near, element("figcaption", { textContent: `test ${facts.example}s with the nearest codes` })));
    const whole = element("div", { className: "ex-pad", style: { "--shape": `${width} / ${height}` } },
      element("div", {}, pad, element("div", { className: "ex-row" },
        element("button", { type: "button", textContent: "Clear", onclick: clear }),
        element("label", {}, "pen", brush), channels >= 3 ? element("label", {}, "colour", ink) : [])),
      element("div", {}, results, text, element("div", { className: "ex-row" },
        element("label", {}, "a picture", file), element("label", {}, inverted, "inverted"))));
    for (const kind of ["dragenter", "dragover"]) {
      whole.addEventListener(kind, (event) => { event.preventDefault(); whole.classList.add("over"); });
    }
    whole.addEventListener("dragleave", () => whole.classList.remove("over"));
    whole.addEventListener("drop", (event) => {
      event.preventDefault();
      whole.classList.remove("over");
      if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
    });
    clear();
    const what = "bound" in graphs ? ", its place among the codes, and its score, which is high for what is unusual" : " and its place among the codes";
    const how = facts.binary ? " It is made black and white, as the training images were." : "";
    return [element("h3", { textContent: `Your own ${facts.example}` }),
      element("p", { className: "soft", textContent: `Draw, or drop a picture: its reconstruction${what}.${how}` }), whole];
  };

  // ---- when nothing else is to be done: the spread of the posterior, and the test images' scores

  const idle = async () => {
    if (!("bound" in graphs) || !pictured) return;
    const squares = new Float64Array(latents);
    for (let i = 0; i < images; i++) {
      while (performance.now() - touched < 400 || document.hidden) await new Promise((r) => setTimeout(r, 200));
      const inputs = { image: picture(i), noise: noise("bound") };
      if (classes) {
        if (!facts.labels) return;
        inputs.label = Int32Array.of(facts.labels[i]);
      }
      const { cost, kl, z } = await run("bound", inputs);
      scores.push(cost[0] + kl[0]);
      if (discrete || !facts.posterior) continue;
      for (let d = 0; d < latents; d++) squares[d] += (z[d] - codes[i * latents + d]) ** 2;
      if (i % 32 === 31 || i === images - 1) {
        spread = squares.map((sum) => Math.sqrt(sum / (i + 1)));
        const note = document.getElementById("explorer-spread");
        if (note && spread.some((x) => x > 0)) note.style.visibility = "visible"; else spread = null;
        for (const update of bands) update();
      }
    }
    root.dataset.scored = scores.length;
  };

  // ---- does it compute what JAX does?

  const selfTest = async () => {
    const said = element("p", { className: "ex-test", id: "self-test" });
    root.append(said);
    const wanted = array("probe_images"), pixels = array("probe_pixels"), probes = array("probe_codes");
    const labels = has("probe_labels") ? array("probe_labels") : null;
    const count = probes.length / length, part = (values, size, i) => values.slice(i * size, (i + 1) * size);
    const furthest = (a, b) => a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0);
    let decoder = 0, encoder = 0;
    for (let i = 0; i < count; i++) {
      const label = labels ? { label: Int32Array.of(labels[i]) } : {}, code = part(probes, length, i);
      const { image } = await run("decode", { [discrete ? "indices" : "z"]: code, ...label });
      decoder = Math.max(decoder, furthest(image, part(wanted, size, i)));
      if (!("look" in graphs)) continue;
      const found = await run("look", { image: part(pixels, size, i), ...label });
      encoder = Math.max(encoder, furthest(found.z ?? found.indices, code));
    }
    const power = (x) => (x === 0 ? "0" : x.toExponential(1).replace("-", "−"));
    said.dataset.decoder = decoder;
    said.dataset.weights = facts.weights;
    let text = `Self-test: on ${count} ${count === 1 ? "probe" : "probes"} this page’s decoder differs from JAX’s by at most ${power(decoder)}`;
    if ("look" in graphs) {
      said.dataset.encoder = encoder;
      text += `, its encoder by ${power(encoder)}`;
    }
    const weights = facts.weights === "rounded"
      ? "large matrices rounded to whole steps, other weights in float16" : `weights in ${facts.weights}`;
    said.textContent = `${text}; ${weights}.`;
  };

  // ---- all together

  if (!live) root.append(element("p", { textContent: `${facts.instead} The plane shows ${tiles.length / size} images decoded beforehand instead.` }));
  const stage = element("div", { className: "ex-stage" },
    element("figure", { className: "ex-screen" }, screen, caption), discrete ? codeGrid() : planeView());
  const fits = live && !discrete && latents <= 256 && !(facts.levels && latents > 64);
  root.append(stage, live ? controls() : "");
  if (facts.levels && "redraw" in graphs) root.append(...levels());
  if (fits) root.append(...sliders().flat());
  else if (live && !discrete) {
    root.append(element("p", { className: "soft", textContent: `Without sliders: z has ${latents.toLocaleString("en")} dimensions.` }));
  }
  if (live) root.append(...strip().flat());
  if ("look" in graphs && pictured) root.append(...own().flat());
  const offered = { look: "your own pictures", sample: "draws from the prior", redraw: "levels drawn anew", bound: "scores" };
  for (const [name, why] of Object.entries(facts.missing ?? {})) {
    root.append(element("p", { className: "soft", textContent: `Without ${offered[name] ?? name}: ${why}.` }));
  }
  if (discrete) go(codeOf(0), `at the codes of ${nameOf(0)}`, 0);
  else go(middle, facts.standard ? "the prior’s mean" : "the mean code");
  if (live) {
    if (discrete) watchers.push(() => strip.mark());
    await selfTest();
    idle();
  }
  root.dataset.ready = "true";
};

const failed = (what, error) => {
  if (root.dataset.failed) return;
  root.append(element("p", { role: "alert", textContent: `The explorer ${what}: ${error.message}` }));
  root.dataset.failed = error.message;
};
addEventListener("unhandledrejection", ({ reason }) => failed("stopped", reason));
start().catch((error) => failed("could not start", error));
