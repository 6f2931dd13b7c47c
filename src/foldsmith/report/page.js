"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
page.replaceChildren();

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

function section(id, title, about, ...children) {
  page.append(el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title`, text: title }),
    about ? el("p", { class: "about", text: about }) : null, ...children));
  document.getElementById("sections").append(el("a", { href: `#${id}`, text: title }));
}
function choice(label, names, change) {
  const select = el("select", {}, ...names.map((name) => el("option", { value: name, text: name })));
  select.addEventListener("change", () => change(select.value));
  return el("label", {}, label, select);
}

// ---- tables: a click or Enter on a heading sorts; empty cells stay last in both directions
function table(caption, columns, rows, { sort = null, filter = null, head = 0 } = {}) {
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
    const cells = columns.map((column, index) => {
      const value = row[column.key];
      const cell = el(index === head ? "th" : "td", { scope: index === head ? "row" : null,
        class: [column.number ? "num" : "", column.wide ? "wide" : ""].join(" ").trim() || null });
      const shown = column.show ? column.show(value, row) : plain(value);
      cell.append(shown);
      if (index === head) cell.title = plain(value);
      return cell;
    });
    const text = columns.filter((column) => !column.number).map((column) => plain(row[column.key])).join(" ").toLowerCase();
    return { row, node: el("tr", {}, ...cells), text };
  });
  function order(index, first) {
    const column = columns[index];
    down = first !== undefined ? first : sorted === index ? !down : Boolean(column.number);
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
    body.replaceChildren(...shown.map((line) => line.node));
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
  const frame = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("thead", {}, el("tr", {}, ...headings)), body));
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
  const cell = names.length > 14 ? 30 : 52, label = Math.min(170, 12 + 7 * Math.max(...names.map((name) => name.length)));
  const size = cell * names.length, off = matrix.flatMap((row, i) => row.filter((_, j) => i !== j));
  const least = Math.min(...off);
  const root = svg("svg", { viewBox: `0 0 ${label + size + 4} ${size + 26}`, role: "img", "aria-label": "correlation of the members",
    style: `max-width:${label + size + 4}px` });
  const short = (name, most) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);
  names.forEach((name, i) => {
    const text = svg("text", { x: label - 8, y: i * cell + cell / 2 + 4, "text-anchor": "end" }, short(name, 22));
    text.append(svg("title", {}, name));
    root.append(text, svg("text", { x: label + i * cell + cell / 2, y: size + 16, "text-anchor": "middle" }, String(i + 1)));
    names.forEach((other, j) => {
      const value = matrix[i][j], strength = i === j ? 1 : least < 1 ? (value - least) / (1 - least) : 1;
      const box = svg("rect", { x: label + j * cell + 1, y: i * cell + 1, width: cell - 2, height: cell - 2, rx: 4,
        style: `fill:var(--c0);fill-opacity:${(0.08 + 0.62 * strength).toFixed(3)}` });
      box.append(svg("title", {}, `${name} and ${other}: ${value.toFixed(4)}`));
      root.append(box);
      if (names.length <= 14) root.append(svg("text", { x: label + j * cell + cell / 2, y: i * cell + cell / 2 + 4,
        "text-anchor": "middle", style: "fill:var(--ink);pointer-events:none" }, value.toFixed(2)));
    });
  });
  return el("figure", {}, el("figcaption", { text: "Correlation of out-of-fold probabilities; columns are numbered like the rows" }), root);
}

// ---- sections
function meter(value, digits = 4) {
  if (value === null) return "–";
  const bar = el("i");
  bar.style.width = `${100 * Math.max(0, Math.min(1, value))}%`;
  return el("span", {}, value.toFixed(digits), el("span", { class: "meter", "aria-hidden": "true" }, bar));
}
function tags(texts, kind = "") {
  return el("span", {}, ...texts.map((text) => el("span", { class: `tag ${kind}`, text })));
}
function showLeaderboard() {
  const metrics = new Set(data.leaderboard.map((line) => line.metric));
  const rows = data.leaderboard.map((line, index) => ({ ...line, place: index + 1,
    spread: line.low === null ? null : `${line.low.toFixed(4)} … ${line.high.toFixed(4)}`,
    words: Object.entries(line.differs).map(([key, value]) => `${key}=${typeof value === "object" ? JSON.stringify(value) : value}`) }));
  section("leaderboard", "Leaderboard",
    "Scores are out of fold, at the threshold that is best for all folds. Held out: each fold at the threshold (and, of a blend, the weights) fitted to the other folds; its interval holds 95 % of the resamples of the images.",
    ...data.notes.map((text) => el("p", { class: "note", text })),
    table("Leaderboard", [
      { key: "name", title: "Experiment" },
      { key: "place", title: "#", number: true, show: plain },
      ...(metrics.size > 1 ? [{ key: "metric", title: "Metric" }] : []),
      { key: "score", title: metrics.size > 1 ? "Score" : [...metrics][0], number: true, show: fixed(4) },
      { key: "nested", title: "Held out", number: true, show: fixed(4) },
      { key: "spread", title: "95 % interval", show: plain },
      { key: "words", title: "Differs in", wide: true, show: (value) => tags(value) },
      { key: "threshold", title: "Threshold", number: true, show: fixed(4) },
      { key: "epochs", title: "Epochs", number: true, show: (v) => (v === null ? "–" : String(Number(v.toFixed(1)))), help: "of a fold, their mean" },
      { key: "seconds", title: "Time", number: true, show: duration, help: "training and validation of all folds" },
      { key: "train_speed", title: "Train/s", number: true, show: whole, help: "images a second in training" },
      { key: "predict_speed", title: "Predict/s", number: true, show: whole, help: "images a second of one fold with all its views" },
      { key: "folds", title: "Folds" },
    ], rows, { sort: { key: "place", down: false }, filter: "Filter by name, metric or config key" }));
}
function showCurves() {
  if (!data.curves.length) return;
  const charts = el("div", { class: "charts" });
  const draw = (name) => {
    const run = data.curves.find((each) => each.name === name);
    const begins = run.folds[0].epoch.filter((_, i, all) => i && run.folds[0].stage[i] !== run.folds[0].stage[i - 1]).map((x) => x - 0.5);
    const lines = (key, label, dashes) => run.folds.map((fold) => ({ name: `fold ${fold.fold}${label}`, x: fold.epoch, y: fold[key], color: color(fold.fold), dashed: dashes }));
    charts.replaceChildren(
      lineChart(`${run.metric} on the fold's validation images`, "epoch", lines("score", "", false), { rules: begins, wholeX: true }),
      lineChart("Loss", "epoch", [...lines("train_loss", " training", false), ...lines("valid_loss", " validation (log loss)", true)], { rules: begins, wholeX: true }));
  };
  const names = data.curves.map((run) => run.name);
  section("curves", "Learning curves", "One line a fold. A dotted rule marks where a stage of training begins.",
    el("div", { class: "tools" }, choice("Experiment", names, draw)), charts);
  draw(names[0]);
}
function showThresholds() {
  const sweeps = data.groups.flatMap((group) => group.sweeps).filter(Boolean);
  if (!sweeps.length) return;
  const metrics = [...new Set(sweeps.map((each) => each.metric))];
  section("threshold", "Score against threshold", "A flat top means that the exact threshold matters little; a narrow one that it does.",
    el("div", { class: "charts" }, ...metrics.map((metric) => {
      const own = sweeps.filter((each) => each.metric === metric);
      return lineChart(metric, "threshold", own.map((each, i) => ({ ...each, color: color(i), dashed: dashed(i) })),
        { rules: own.length === 1 ? [own[0].threshold] : [] });
    })));
}
function showMembers() {
  const groups = data.groups.filter((group) => group.members.length > 1);
  if (!groups.length) return;
  const parts = groups.map((group) => {
    const rows = group.members.map((name, index) => ({ name, number: index + 1,
      mean: group.correlation[index].reduce((a, b) => a + b, -1) / (group.members.length - 1),
      ...Object.fromEntries(Object.entries(group.blends).map(([blend, weights]) => [`blend ${blend}`, weights[index]])) }));
    const blends = Object.keys(group.blends).map((blend) => ({ key: `blend ${blend}`, title: `Weight in ${blend}`, number: true, show: (value) => meter(value, 3) }));
    return el("div", { class: "charts" }, heatMap(group.members, group.correlation),
      table("Members", [{ key: "name", title: "Member" }, { key: "number", title: "#", number: true, show: plain }, ...blends,
        { key: "mean", title: "Mean correlation", number: true, show: fixed(3) }], rows, { sort: { key: "number", down: false } }));
  });
  section("members", "Members", "The less alike two members are, the more a blend of them can gain.", ...parts);
}
function showClasses() {
  const names = Object.keys(data.classes);
  if (!names.length) return;
  const place = el("div");
  const draw = (name) => {
    const { beta, threshold, columns } = data.classes[name];
    const score = `F${beta}`;
    const rows = columns.name.map((_, i) => Object.fromEntries(Object.entries(columns).map(([key, values]) => [key, values[i]])));
    place.replaceChildren(el("p", { class: "about", text: threshold === null ? "Each image has its most probable class." : `Labels are predicted above ${threshold.toFixed(4)}. The last two columns say what each class alone could reach with a threshold of its own, fitted to the same images.` }),
      table("Classes", [
        { key: "name", title: "Class" }, { key: "token", title: "Label" },
        { key: "images", title: "Images", number: true, show: whole },
        { key: "predicted", title: "Predicted", number: true, show: whole },
        { key: "precision", title: "Precision", number: true, show: fixed(3) },
        { key: "recall", title: "Recall", number: true, show: fixed(3) },
        { key: "score", title: score, number: true, show: (value) => meter(value, 3) },
        ...(threshold === null ? [] : [
          { key: "best_threshold", title: "Own threshold", number: true, show: fixed(3) },
          { key: "best_score", title: `${score} there`, number: true, show: fixed(3) }]),
      ], rows, { sort: { key: "images", down: true }, filter: "Search classes" }));
  };
  section("classes", "Classes", null, el("div", { class: "tools" }, choice("Model", names, draw)), place);
  draw(names[0]);
}
function shot(card, why) {
  const uri = data.pictures[card.id];
  const picture = uri ? el("img", { src: uri, alt: `image ${card.id}` }) : el("span", { text: "picture not embedded" });
  const said = card.predicted.map(([name, p]) => el("span", { class: `tag ${card.true.includes(name) ? "hit" : "false"}`, text: `${name} ${p.toFixed(2)}` }));
  const names = card.predicted.map(([name]) => name);
  const truth = card.true.map((name) => el("span", { class: `tag ${names.includes(name) ? "hit" : "miss"}`, text: name }));
  return el("div", { class: "shot" }, el("div", { class: "pic" }, picture), el("div", { class: "text" },
    el("code", { text: card.id }), el("div", { class: "why", text: why }),
    el("dl", {}, el("dt", { text: "labels" }), el("dd", {}, ...(truth.length ? truth : ["none"])),
      el("dt", { text: "predicted" }), el("dd", {}, ...(said.length ? said : ["none"])))));
}
function showGallery() {
  const names = Object.keys(data.galleries);
  if (!names.length) return;
  const place = el("div");
  const block = (title, about, cards) => (cards.length ? [el("h3", { text: title }), el("p", { class: "about", text: about }), el("div", { class: "cards" }, ...cards)] : []);
  const draw = (name) => {
    const { mistakes, issues } = data.galleries[name];
    const reason = (each) => (each.suggested ? `${each.label} ${each.probability.toFixed(2)}; rather ${each.suggested}?`
      : each.kind === "missing" ? `${each.label}? ${each.probability.toFixed(2)}, usually ${each.usual.toFixed(2)}`
      : `${each.label}: only ${each.probability.toFixed(3)}, usually ${each.usual.toFixed(2)}`);
    const of = (kind) => issues.filter((each) => each.kind === kind).map((each) => shot(each, reason(each)));
    place.replaceChildren(
      ...block("Worst mistakes", "Highest cross-entropy first: labels that the model was sure of and that are not there, or the other way round.", mistakes.map((each) => shot(each, `loss ${each.loss.toFixed(1)}`))),
      ...block("Likeliest missing labels", "The model gives the label a higher probability than images that have it usually get.", of("missing")),
      ...block("Likeliest wrong labels", "The model gives the label a lower probability than images that do not have it.", of("wrong")));
  };
  section("gallery", "Images", "Dashed: a label that was not predicted. Red: predicted, and not among the labels. foldsmith label-issues writes the whole ranking as csv.",
    el("div", { class: "tools" }, choice("Model", names, draw)), place);
  draw(names[0]);
}
function showFolds() {
  if (!data.groups.length) return;
  const parts = data.groups.map((group) => {
    const { folds, rare, empty, median_deviation: median, worst_deviation: worst, worst_class: which } = group.split;
    const few = (names) => (names.length ? `${names.length} (${names.slice(0, 12).join(", ")}${names.length > 12 ? ", …" : ""})` : "0");
    const rows = folds.map((fold) => ({ ...fold, absent_names: fold.absent_names.join(", ") + (fold.absent > fold.absent_names.length ? ", …" : "") }));
    const columns = [{ key: "fold", title: "Fold", number: true, show: plain }, { key: "images", title: "Images", number: true, show: whole },
      { key: "share", title: "Share", number: true, show: percent },
      ...(folds[0].groups === null ? [] : [{ key: "groups", title: "Groups", number: true, show: whole }]),
      { key: "absent", title: "Classes absent", number: true, show: whole }, { key: "absent_names", title: "Which", wide: true }];
    return el("div", {}, el("h3", { text: group.members.join(", ") }), table("Folds", columns, rows, { sort: { key: "fold", down: false } }),
      el("p", { class: "about", text: (median === null ? "" : `An even spread is missed by ${percent(median)} (the median class in its worst fold), at most by ${percent(worst)} (${which}). `)
        + `Classes with fewer images than folds: ${few(rare)}. Classes without an image: ${few(empty)}.` }));
  });
  section("folds", "Folds", "How evenly the split spreads images and classes.", ...parts);
}
[showLeaderboard, showCurves, showThresholds, showMembers, showClasses, showGallery, showFolds].forEach((show) => show());
document.getElementById("foot").textContent = `foldsmith ${data.version}. Everything is in this file; nothing was loaded.`;
