"use strict";
// ---- building blocks: all text goes through textContent, so names are never markup
function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") node.textContent = value;
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}
function svg(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
const fixed = (digits) => (value) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const whole = (value) => (value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en"));
const plain = (value) => (value === null || value === undefined ? "–" : String(value));
const percent = (value) => (value === null || value === undefined ? "–" : (100 * value).toFixed(1) + " %");
function duration(seconds) {
  if (seconds === null) return "–";
  if (seconds < 120) return `${Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
const color = (index) => `var(--c${index % 8})`;
const dashed = (index) => index % 16 >= 8;

function choice(label, names, change) {
  const select = el("select", {}, ...names.map((name) => el("option", { value: name, text: name })));
  select.addEventListener("change", () => change(select.value));
  return el("label", {}, label, select);
}

// A name that may go on in the next line after a mark between its words.
function breakable(name) {
  return el("span", {}, ...name.split(/(?<=[_./:-])(?=\w)/).flatMap((part) => [part, el("wbr")]));
}

// ---- tables: a click or Enter on a heading sorts; empty cells stay last in both directions. A column that is
// `below` has no heading: it is a second line of each row, as wide as the table.
function table(caption, allColumns, rows, { sort = null, filter = null, head = 0 } = {}) {
  const columns = allColumns.filter((column) => !column.below), below = allColumns.find((column) => column.below);
  const body = el("tbody");
  const count = el("span", { class: "count", role: "status" });
  const headings = columns.map((column, index) => {
    const button = el("button", { type: "button", text: column.title, title: column.help || null });
    const cell = el("th", { scope: "col", class: column.number ? "num" : null, "aria-sort": "none" }, button);
    button.addEventListener("click", () => order(index));
    return cell;
  });
  let sorted = null, down = false, words = "";
  const lines = rows.map((row) => {
    const more = below ? below.show(row[below.key], row) : null;
    const cells = columns.map((column, index) => {
      const value = row[column.key];
      const cell = el(index === head ? "th" : "td", { scope: index === head ? "row" : null,
        rowspan: more && index === head ? 2 : null,
        class: [column.number ? "num" : "", column.wide ? "wide" : ""].join(" ").trim() || null });
      cell.append(column.show ? column.show(value, row) : index === head ? breakable(plain(value)) : plain(value));
      return cell;
    });
    const second = more ? [el("tr", { class: "below" }, el("td", { colspan: columns.length - 1 }, more))] : [];
    const text = allColumns.filter((column) => !column.number).map((column) => plain(row[column.key])).join(" ").toLowerCase();
    return { row, nodes: [el("tr", {}, ...cells), ...second], text };
  });
  function order(index, first) {
    const column = columns[index];
    down = first !== undefined ? first : sorted === index ? !down : Boolean(column.number && !column.rising);
    sorted = index;
    headings.forEach((cell, at) => cell.setAttribute("aria-sort", at === index ? (down ? "descending" : "ascending") : "none"));
    const empty = (value) => value === null || value === undefined || value === "";
    lines.sort((a, b) => {
      const x = a.row[column.key], y = b.row[column.key];
      if (empty(x) || empty(y)) return empty(x) - empty(y);
      const less = column.number ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
      return down ? -less : less;
    });
    draw();
  }
  function draw() {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = lines.filter((line) => wanted.every((word) => line.text.includes(word)));
    body.replaceChildren(...shown.flatMap((line) => line.nodes));
    count.textContent = `${shown.length} of ${lines.length}`;
  }
  const tools = [];
  if (filter) {
    const input = el("input", { type: "search", placeholder: filter, "aria-label": filter });
    input.addEventListener("input", () => { words = input.value; draw(); });
    tools.push(el("div", { class: "tools" }, input, count));
  }
  if (sort) order(columns.findIndex((column) => column.key === sort.key), sort.down);
  else draw();
  const longest = rows.reduce((most, row) => Math.max(most, plain(row[columns[head].key]).length), 0);
  const frame = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", { style: `--name:${longest + 3}ch` }, el("thead", {}, el("tr", {}, ...headings)), body));
  return el("div", {}, ...tools, frame);
}

// ---- charts
function ticks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(Number(at.toPrecision(10)));
  return found;
}
function lineChart(title, xTitle, series, { rules = [], wholeX = false, digits = 4 } = {}) {
  const narrow = window.innerWidth < 600; // letters keep their size: the drawing has fewer units instead
  const [width, height, left, right, top, bottom] = [narrow ? 330 : 460, narrow ? 230 : 260, 46, 12, 10, 34];
  const lines = series.map((each) => ({ ...each, points: each.x.map((x, i) => [x, each.y[i]]).filter(([, y]) => Number.isFinite(y)) }))
    .filter((each) => each.points.length);
  const all = lines.flatMap((each) => each.points);
  if (!all.length) return el("figure", {}, el("figcaption", { text: `${title}: no values` }));
  const xs = all.map(([x]) => x), ys = all.map(([, y]) => y);
  let [x0, x1, y0, y1] = [xs, ys].flatMap((each) => [each.reduce((a, b) => Math.min(a, b)), each.reduce((a, b) => Math.max(a, b))]);
  if (x0 === x1) { x0 -= 0.5; x1 += 0.5; }
  const margin = (y1 - y0) * 0.06 || Math.abs(y1) * 0.1 || 0.1;
  y0 -= margin; y1 += margin;
  const px = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - right);
  const py = (y) => height - bottom - ((y - y0) / (y1 - y0)) * (height - top - bottom);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  for (const y of ticks(y0, y1, 5)) {
    root.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: py(y), y2: py(y) }),
      svg("text", { x: left - 6, y: py(y) + 4, "text-anchor": "end" }, String(y)));
  }
  for (const x of ticks(x0, x1, 7).filter((each) => !wholeX || Number.isInteger(each)))
    root.append(svg("text", { x: px(x), y: height - bottom + 16, "text-anchor": "middle" }, String(x)));
  root.append(svg("text", { x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, xTitle));
  for (const x of rules.filter((each) => each >= x0 && each <= x1))
    root.append(svg("line", { class: "rule", x1: px(x), x2: px(x), y1: top, y2: height - bottom }));
  for (const each of lines) {
    const style = `stroke:${each.color};${each.dashed ? "stroke-dasharray:6 4" : ""}`;
    if (each.points.length === 1) root.append(svg("circle", { cx: px(each.points[0][0]), cy: py(each.points[0][1]), r: 4, style: `fill:${each.color}` }));
    else root.append(svg("polyline", { class: "line", style, points: each.points.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" ") }));
  }
  const dot = svg("circle", { r: 4, visibility: "hidden" });
  root.append(dot);
  const read = el("div", { class: "read" });
  root.addEventListener("pointermove", (event) => {
    const box = root.getBoundingClientRect(), scale = width / box.width;
    const [mx, my] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    let near = null;
    for (const each of lines) for (const [x, y] of each.points) {
      const far = (px(x) - mx) ** 2 + (py(y) - my) ** 2;
      if (!near || far < near.far) near = { far, x, y, each };
    }
    dot.setAttribute("cx", px(near.x)); dot.setAttribute("cy", py(near.y));
    dot.setAttribute("style", `fill:${near.each.color}`); dot.setAttribute("visibility", "visible");
    read.textContent = `${near.each.name}: ${near.y.toFixed(digits)} at ${xTitle} ${Number(near.x.toFixed(4))}`;
  });
  const legend = lines.length > 1 ? el("div", { class: "legend" }, ...lines.map((each) =>
    el("span", {}, el("i", { style: `color:${each.color}`, class: each.dashed ? "dashed" : null }), each.name))) : null;
  return el("figure", {}, el("figcaption", { text: title }), root, legend, read);
}
function heatMap(names, matrix) {
  const many = names.length > 14, cell = many ? 24 : 52; // of many the numbers alone: the table beside says whose they are
  const short = (name) => (name.length > 24 ? `${name.slice(0, 10)}…${name.slice(-13)}` : name);
  const labels = names.map((name, i) => (many ? String(i + 1) : short(name)));
  const label = 12 + 7 * Math.max(...labels.map((each) => each.length));
  const size = cell * names.length, least = Math.min(...matrix.flatMap((row, i) => row.filter((_, j) => i !== j)));
  const root = svg("svg", { viewBox: `0 0 ${label + size + 4} ${size + 26}`, role: "img", "aria-label": "correlation of the members",
    style: `max-width:${label + size + 4}px` });
  names.forEach((name, i) => {
    const text = svg("text", { x: label - 8, y: i * cell + cell / 2 + 4, "text-anchor": "end" }, labels[i]);
    text.append(svg("title", {}, name));
    root.append(text, svg("text", { x: label + i * cell + cell / 2, y: size + 16, "text-anchor": "middle" }, String(i + 1)));
    names.forEach((other, j) => {
      const value = matrix[i][j], strength = i === j ? 1 : least < 1 ? (value - least) / (1 - least) : 1;
      const box = svg("rect", { x: label + j * cell + 1, y: i * cell + 1, width: cell - 2, height: cell - 2, rx: 4,
        style: `fill:var(--c0);fill-opacity:${(0.08 + 0.42 * strength).toFixed(3)}` });
      box.append(svg("title", {}, `${name} and ${other}: ${value.toFixed(4)}`));
      root.append(box);
      if (!many) root.append(svg("text", { x: label + j * cell + cell / 2, y: i * cell + cell / 2 + 4,
        "text-anchor": "middle", style: "fill:var(--ink);pointer-events:none" }, value.toFixed(2)));
    });
  });
  return el("figure", {}, el("figcaption", { text: "Correlation of out-of-fold probabilities; columns are numbered like the rows" }), root);
}
function meter(value, digits = 4) {
  if (value === null) return "–";
  const bar = el("i");
  bar.style.width = `${100 * Math.max(0, Math.min(1, value))}%`;
  return el("span", {}, value.toFixed(digits), el("span", { class: "meter", "aria-hidden": "true" }, bar));
}
function tags(texts, kind = "") {
  return el("span", {}, ...texts.map((text) => el("span", { class: `tag ${kind}`, text })));
}
