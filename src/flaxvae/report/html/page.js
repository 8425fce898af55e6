// What every page does: the theme, copying commands, and the values of charts under the pointer.
(() => {
  "use strict";
  const root = document.documentElement;
  const said = document.getElementById("said");

  // ---- theme: the system's, then the other one, and back
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const now = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const label = () => {
    button.textContent = now() === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Use the ${now() === "dark" ? "light" : "dark"} theme`);
  };
  button.hidden = false;
  label();
  dark.addEventListener("change", label);
  button.addEventListener("click", () => {
    root.dataset.theme = now() === "dark" ? "light" : "dark";
    try { localStorage.setItem("flaxvae-theme", root.dataset.theme); } catch { /* not kept */ }
    label();
    dispatchEvent(new Event("themechange"));
  });

  // ---- commands
  for (const copy of document.querySelectorAll("button.copy")) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      const code = copy.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        copy.textContent = said.textContent = "Copied";
        setTimeout(() => { copy.textContent = "Copy"; }, 1500);
      } catch { // no clipboard here: select it instead
        getSelection().selectAllChildren(code);
      }
    });
  }

  // ---- charts: each has its values beside it, [[x, y, text, picture], ...] in the units of its
  // viewBox. The nearest one is shown: under the pointer, or with the arrow keys.
  const tip = document.getElementById("tip");
  let hideTip = () => {}; // and the mark in its chart

  const picture = (sheet, index) => {
    const size = [Number(sheet.dataset.width), Number(sheet.dataset.height)];
    const columns = Math.max(1, Math.round(sheet.naturalWidth / size[0]));
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = size;
    canvas.getContext("2d").drawImage(
      sheet, (index % columns) * size[0], Math.floor(index / columns) * size[1], ...size,
      0, 0, ...size);
    canvas.style.width = `${size[0] * Math.max(1, Math.round(84 / size[0]))}px`;
    return canvas;
  };

  const alive = (figure) => {
    const svg = figure.querySelector("svg");
    const source = figure.querySelector("script.values");
    if (!svg || !source) return;
    const { near, values } = JSON.parse(source.textContent);
    if (!values.length) return;
    const sheet = figure.querySelector("img.sheet");
    const mark = svg.querySelector(".mark");
    let at = -1;

    const hide = () => { tip.hidden = true; mark.setAttribute("visibility", "hidden"); };
    const show = (index, aloud) => {
      at = index;
      hideTip = hide;
      const [x, y, text, number] = values[index];
      mark.setAttribute("transform", `translate(${x} ${near === "x" ? 0 : y})`);
      mark.setAttribute("visibility", "visible");
      tip.replaceChildren();
      if (sheet && sheet.complete && number !== undefined) tip.append(picture(sheet, number));
      const words = document.createElement("span");
      words.textContent = text;
      tip.append(words);
      tip.hidden = false;
      const place = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
      const box = tip.getBoundingClientRect();
      const left = place.x + 14 + box.width > innerWidth ? place.x - 14 - box.width : place.x + 14;
      tip.style.left = `${Math.max(4, Math.min(left, innerWidth - box.width - 4))}px`;
      tip.style.top = `${Math.max(4, place.y - 14 - box.height)}px`;
      if (aloud) said.textContent = text;
    };

    svg.addEventListener("pointermove", (event) => {
      const place = new DOMPoint(event.clientX, event.clientY)
        .matrixTransform(svg.getScreenCTM().inverse());
      let best = -1, least = Infinity;
      for (let i = 0; i < values.length; i++) {
        const dx = values[i][0] - place.x, dy = near === "x" ? 0 : values[i][1] - place.y;
        const distance = dx * dx + dy * dy;
        if (distance < least) { least = distance; best = i; }
      }
      if (near === "x" || least < 400) show(best, false); else hide();
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const last = values.length - 1;
      const next = {
        ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1,
        Home: 0, End: last, PageDown: at + 10, PageUp: at - 10,
      }[event.key];
      if (event.key === "Escape") hide();
      if (next === undefined) return;
      event.preventDefault();
      show(Math.max(0, Math.min(next, last)), true);
    });
  };
  document.querySelectorAll("figure.chart").forEach(alive);
  addEventListener("scroll", () => hideTip(), { passive: true });
  addEventListener("beforeprint", () => {
    hideTip();
    for (const each of document.querySelectorAll("details.print")) each.open = true;
  });
})();
