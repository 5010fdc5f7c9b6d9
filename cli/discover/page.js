"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (selector) => document.querySelector(selector);
  const state = Object.assign({ q: "", show: "all", sort: "", dir: "", class: "", colour: "kind" },
    Object.fromEntries(new URLSearchParams(location.hash.slice(1))));
  const remember = () => {
    const kept = Object.entries(state).filter(([name, value]) => value && !(name === "show" && value === "all"));
    try { history.replaceState(null, "", "#" + new URLSearchParams(kept)); } catch { /* a sandboxed frame */ }
  };

  // The table of classes: search, filter, sort.
  const body = $("#class-table tbody");
  const rows = [...body.rows];
  const given = new Map(rows.map((row, place) => [row, place]));
  const byText = new Intl.Collator(undefined, { numeric: true }).compare;
  const compare = (a, b) => {
    const [x, y] = [a.dataset[state.sort] ?? "", b.dataset[state.sort] ?? ""];
    if (x === "" || y === "") return (x === "") - (y === "") || given.get(a) - given.get(b);
    const order = state.sort === "name" ? byText(x, y) : x - y;
    return (state.dir === "descending" ? -order : order) || given.get(a) - given.get(b);
  };
  const arrange = () => {
    const query = state.q.trim().toLowerCase();
    let n = 0;
    for (const row of rows) {
      const kind = row.dataset.known === "1" ? "known" : "new";
      row.hidden = !(row.dataset.text.includes(query) && (state.show === "all" || state.show === kind));
      n += !row.hidden;
    }
    body.append(...(state.sort ? [...rows].sort(compare) : rows));
    for (const head of document.querySelectorAll("#class-table thead th[aria-sort]")) {
      const isChosen = head.firstElementChild.dataset.sort === state.sort;
      head.setAttribute("aria-sort", isChosen ? state.dir || "ascending" : "none");
    }
    $("#n-shown").textContent = `${n} of ${rows.length} classes shown`;
    remember();
  };
  $("#q").value = state.q;
  $("#show").value = state.show;
  $("#order").value = state.sort;
  $("#q").addEventListener("input", (event) => { state.q = event.target.value; arrange(); });
  $("#show").addEventListener("change", (event) => { state.show = event.target.value; arrange(); });
  const sortBy = (name, dir) => { Object.assign(state, { sort: name, dir }); $("#order").value = name; arrange(); };
  const first = (name) => (name === "rows" || name === "cosine" ? "descending" : "ascending");
  $("#order").addEventListener("change", (event) => sortBy(event.target.value, first(event.target.value)));
  for (const button of document.querySelectorAll("#class-table thead button")) {
    button.addEventListener("click", () => {
      const name = button.dataset.sort;
      const turned = state.dir === "descending" ? "ascending" : "descending";
      sortBy(name, state.sort === name ? turned : first(name));
    });
  }

  // The map.
  const map = data.map, canvas = $("#map canvas");
  let chosen = data.classes.findIndex((entry) => entry.name === state.class);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const hue = (number) => (number * 137.508) % 360;
  const fitted = (target, ratio) => {
    const scale = window.devicePixelRatio || 1, width = target.clientWidth;
    target.width = Math.round(width * scale);
    target.height = Math.round(width * ratio * scale);
    const pen = target.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    return [pen, width, width * ratio];
  };
  const painter = () => {
    const known = css("--known"), fresh = css("--new"), light = css("--dot");
    const kinds = data.classes.map((entry) => (entry.known ? known : fresh));
    const hues = data.classes.map((_, number) => `hsl(${hue(number)} 65% ${light})`);
    const sure = Array.from({ length: 101 }, (_, share) => `hsl(${share * 1.4} 60% ${light})`);
    return (point) => state.colour === "class" ? hues[map.c[point]]
      : state.colour === "sure" ? sure[map.p[point]] : kinds[map.c[point]];
  };
  let place = () => [0, 0];
  const draw = () => {
    if (!map) return;
    const [pen, size] = fitted(canvas, 1);
    const margin = 10, unit = (size - 2 * margin) / 4095, colour = painter();
    place = (point) => [margin + map.x[point] * unit, margin + (4095 - map.y[point]) * unit];
    const radius = map.c.length > 5000 ? 1.2 : 1.8;
    const dots = (isWanted, width, alpha, one) => {
      pen.globalAlpha = alpha;
      for (let point = 0; point < map.c.length; point++) {
        if (!isWanted(point)) continue;
        const [x, y] = place(point);
        pen.fillStyle = one ?? colour(point);
        pen.fillRect(x - width, y - width, 2 * width, 2 * width);
      }
    };
    if (chosen < 0) return dots(() => true, radius, .75);
    dots((point) => map.c[point] !== chosen, radius, 1, css("--line"));
    dots((point) => map.c[point] === chosen, radius + 1.2, 1);
  };
  const choose = (number) => {
    chosen = number;
    state.class = number < 0 ? "" : data.classes[number].name;
    for (const button of document.querySelectorAll(".pick")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.class) === number));
    }
    if (map) $("#highlight").value = String(number);
    draw();
    remember();
  };
  for (const button of document.querySelectorAll(".pick")) {
    button.addEventListener("click", () => {
      const number = Number(button.dataset.class);
      choose(number === chosen ? -1 : number);
      if (map && chosen >= 0 && canvas.getBoundingClientRect().bottom < 0) $("#map").scrollIntoView();
    });
  }
  const nearest = (x, y) => {
    let found = -1, least = 14 * 14;
    for (let point = 0; point < map.c.length; point++) {
      const [px, py] = place(point);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [found, least] = [point, distance];
    }
    return found;
  };
  const showTip = (frame, tip, x, y, text) => {
    tip.textContent = text;
    tip.hidden = !text;
    if (!text) return;
    tip.style.left = `${Math.max(0, Math.min(x + 12, frame.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${Math.max(0, Math.min(y + 12, frame.clientHeight - tip.offsetHeight))}px`;
  };
  const say = (point) => {
    const how = map.l[point] === "1" ? "labelled" : `${map.p[point]} % sure`;
    return `${data.classes[map.c[point]].name} (${how}): ${data.ids[point]}`;
  };
  if (map) {
    const frame = canvas.parentElement, tip = frame.querySelector(".tip");
    canvas.addEventListener("pointermove", (event) => {
      const point = nearest(event.offsetX, event.offsetY);
      showTip(frame, tip, event.offsetX, event.offsetY, point < 0 ? "" : say(point));
    });
    canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
    canvas.addEventListener("click", (event) => {
      const point = nearest(event.offsetX, event.offsetY);
      choose(point < 0 || map.c[point] === chosen ? -1 : map.c[point]);
    });
    $("#highlight").addEventListener("change", (event) => choose(Number(event.target.value)));
    $("#colour").value = state.colour;
    $("#colour").addEventListener("change", (event) => { state.colour = event.target.value; draw(); remember(); });
  }

  // The confusion of true classes and found ones.
  const heat = $("#heat");
  const drawHeat = () => {
    if (!heat) return;
    const { n_classes: n, n_clusters: m, cells } = data.confusion;
    heat.style.maxWidth = `${Math.max(160, 26 * m)}px`;
    const [pen, width] = fitted(heat, Math.min(1.2, n / m));
    const [dx, dy] = [width / m, width * Math.min(1.2, n / m) / n], tint = css("--heat");
    pen.fillStyle = css("--ground");
    pen.fillRect(0, 0, width, dy * n);
    for (const [row, column, , share] of cells) {
      pen.fillStyle = `rgba(${tint}, ${.12 + .88 * share})`;
      pen.fillRect(column * dx, row * dy, Math.max(dx - .5, .5), Math.max(dy - .5, .5));
    }
  };
  if (heat) {
    const { n_classes: n, n_clusters: m, cells, classes, clusters } = data.confusion;
    const counts = new Map(cells.map(([row, column, count]) => [row * m + column, count]));
    const frame = heat.parentElement, tip = frame.querySelector(".tip");
    heat.addEventListener("pointermove", (event) => {
      const column = Math.floor(event.offsetX / heat.clientWidth * m);
      const row = Math.floor(event.offsetY / heat.clientHeight * n);
      const count = counts.get(row * m + column) ?? 0;
      const isInside = row >= 0 && row < n && column >= 0 && column < m;
      const text = isInside ? `${count} rows of ${classes[row]} found as ${clusters[column]}` : "";
      showTip(frame, tip, event.offsetX, event.offsetY, text);
    });
    heat.addEventListener("pointerleave", () => { tip.hidden = true; });
  }

  const redraw = () => { draw(); drawHeat(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("resize", redraw);
  arrange();
  choose(chosen);
  drawHeat();
  document.documentElement.dataset.ready = "1";
})();
