const data = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
page.replaceChildren();

function section(id, title, about, ...children) {
  page.append(el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title`, text: title }),
    about ? el("p", { class: "about", text: about }) : null, ...children));
  document.getElementById("sections").append(el("a", { href: `#${id}`, text: title }));
}
function showLeaderboard() {
  const metrics = new Set(data.leaderboard.map((line) => line.metric)), split = data.leaderboard.some((line) => line.score === null);
  const rows = data.leaderboard.map((line) => ({ ...line,
    threshold: Array.isArray(line.threshold) ? null : line.threshold, byClass: Array.isArray(line.threshold),
    words: line.kind === "blend" ? Object.entries(line.weights).map(([name, weight]) => `${name} × ${weight.toFixed(3)}`)
      : Object.entries(line.differs).map(([key, value]) => `${key}=${typeof value === "object" ? JSON.stringify(value) : value}`) }));
  section("leaderboard", "Leaderboard",
    "Score: out of fold, at the threshold that is best for all folds. Held out: each fold at the threshold (and, of a blend, the weights) fitted to the other folds; its interval holds 95 % of the resamples of the images. "
    + "Validation: the mean of the folds' best epochs, each at its own best threshold: optimistic."
    + (split ? " What has no out-of-fold score is not predicted yet: it has no place, and stands below, by its validation score." : ""),
    ...data.notes.map((text) => el("p", { class: "note", text })),
    table("Leaderboard", [
      { key: "name", title: "Experiment" },
      { key: "place", title: "#", number: true, rising: true, show: plain, help: "by score, among the models of the same metric" },
      ...(metrics.size > 1 ? [{ key: "metric", title: "Metric" }] : []),
      { key: "score", title: metrics.size > 1 ? "Score" : `Score (${[...metrics][0]})`, number: true, show: fixed(4), help: "out of fold" },
      { key: "nested", title: "Held out", number: true, show: heldOut, help: "and what holds 95 % of the resamples" },
      { key: "validation_score", title: "Validation", number: true, show: fixed(4), help: "mean of the folds' best epochs" },
      { key: "threshold", title: "Threshold", number: true, show: (value, row) => el("span", {}, row.byClass ? "by class" : fixed(4)(value),
        limits(row) ? el("span", { class: "spread", text: limits(row) }) : null) },
      { key: "epochs", title: "Epochs", number: true, show: (v) => (v === null ? "–" : String(Number(v.toFixed(1)))), help: "of a fold, their mean" },
      { key: "seconds", title: "Time", number: true, show: duration, help: "training and validation of all folds; of a blend, of all its members" },
      { key: "train_speed", title: "Train/s", number: true, show: whole, help: "images a second in training; a blend is not trained" },
      { key: "predict_speed", title: "Predict/s", number: true, show: whole, help: "images a second of one fold with all its views; of a blend, of one fold of each member" },
      { key: "words", below: true, show: details },
    ], rows, { filter: "Filter by name, metric or config key" }));
}
function details(words, line) {
  const what = (text) => el("span", { class: "what", text });
  const parts = [line.score === null ? what(line.folds) : null, words.length ? what(line.kind === "blend" ? "weights" : "differs in") : null];
  const warning = line.single_is_better ? el("span", { class: "tag false", text: "held out, the best single is better" }) : null;
  return parts.some(Boolean) ? el("div", {}, ...parts, tags(words), warning) : null;
}
function heldOut(value, line) {
  const spread = line.low === null ? null : el("span", { class: "spread interval", text: `${line.low.toFixed(4)}\u00a0… ${line.high.toFixed(4)}` });
  return el("span", {}, fixed(4)(value), spread);
}
// How many labels an image gets, in words; empty: as many as exceed their thresholds.
function limits({ min_labels: least, max_labels: most }) {
  return [least ? `at least ${least}` : "", most === null ? "" : `at most ${most}`].filter(Boolean).join(", ");
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
  const sweeps = data.groups.flatMap((group) => group.sweeps);
  if (!sweeps.length) return;
  const most = 8, place = el("div", { class: "charts" });
  const draw = (all) => place.replaceChildren(...[...new Set(sweeps.map((each) => each.metric))].map((metric) => {
    const own = sweeps.filter((each) => each.metric === metric).map((each) => ({ ...each, best: Math.max(...each.y) }));
    own.sort((a, b) => b.best - a.best);
    return lineChart(metric, "threshold", own.slice(0, all ? own.length : most).map((each, i) => ({ ...each, color: color(i), dashed: dashed(i) })),
      { rules: own.length === 1 ? [own[0].threshold] : [] });
  }));
  const choices = [`the best ${most}`, `all ${sweeps.length}`];
  section("threshold", "Score against threshold", "A flat top means that the exact threshold matters little; a narrow one that it does.",
    sweeps.length > most ? el("div", { class: "tools" }, choice("Models", choices, (chosen) => draw(chosen === choices[1]))) : null, place);
  draw(false);
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
  section("members", "Members", "The less alike two members are, the more a blend of them can gain. Of large data, the correlation is that of the probabilities that can come above a threshold.", ...parts);
}
function showClasses() {
  const names = Object.keys(data.classes);
  if (!names.length) return;
  const place = el("div");
  const draw = (name) => {
    const { beta, metric, score: total, threshold, columns } = data.classes[name];
    const score = `F${beta}`;
    const rows = columns.name.map((_, i) => Object.fromEntries(Object.entries(columns).map(([key, values]) => [key, values[i]])));
    const range = limits(data.classes[name]);
    const rule = threshold === null ? "Each image has its most probable class."
      : `Labels are predicted above ${Array.isArray(threshold) ? "a threshold of each class's own" : threshold.toFixed(4)}${range ? `, ${range} an image` : ""}. Best threshold: what would be best for the class alone, fitted to the same images, and so optimistic.`;
    place.replaceChildren(el("p", { class: "about", text: `${metric} ${total.toFixed(4)}. ${rule}` }),
      table("Classes", [
        { key: "name", title: "Class" },
        { key: "images", title: "Images", number: true, show: whole },
        { key: "predicted", title: "Predicted", number: true, show: whole },
        { key: "precision", title: "Precision", number: true, show: fixed(3) },
        { key: "recall", title: "Recall", number: true, show: fixed(3) },
        { key: "score", title: score, number: true, show: (value) => meter(value, 3) },
        ...(threshold === null ? [] : [
          { key: "threshold", title: "Threshold", number: true, show: fixed(3) },
          { key: "best_threshold", title: "Best threshold", number: true, show: fixed(3) },
          { key: "best_score", title: `${score} there`, number: true, show: fixed(3) }]),
        { key: "token", title: "Label" },
      ], rows, { sort: { key: "images", down: true }, filter: "Search classes" }));
  };
  section("classes", "Classes", null, el("div", { class: "tools" }, choice("Model", names, draw)), place);
  draw(names[0]);
}
function shot(card, why) {
  const picture = card.picture === null ? el("span", { text: "picture not embedded" })
    : el("img", { src: data.pictures[card.picture], alt: `image ${card.id}` });
  const tag = (kind) => ([name, p, good]) => el("span", { class: `tag ${good ? "hit" : kind}`, text: `${name} ${p.toFixed(2)}` });
  const truth = card.true.map(tag("miss")), said = card.predicted.map(tag("false"));
  if (card.more) said.push(el("span", { class: "more", text: `and ${card.more} more` }));
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
    const lists = data.galleries[name];
    const reason = (each) => (each.suggested ? `${each.label} ${each.probability.toFixed(2)}; rather ${each.suggested}?`
      : each.kind === "missing" ? `${each.label}? ${each.probability.toFixed(2)}, usually ${each.usual.toFixed(2)}`
      : `${each.label}: only ${each.probability.toFixed(3)}, usually ${each.usual.toFixed(2)}`);
    const of = (kind) => lists[kind].map((each) => shot(each, reason(each)));
    place.replaceChildren(
      ...block("Worst mistakes", "Highest cross-entropy first: labels that the model was sure of and that are not there, or the other way round.", lists.mistakes.map((each) => shot(each, `loss ${each.loss.toFixed(1)}`))),
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
