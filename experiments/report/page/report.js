// The page: filters, table, tooltip and the chosen point, from the JSON in #data; plots.js draws the plots.
// Text from the data goes in as text nodes only, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const KIND_COLORS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c", "#b8a100"];
const FACE = {
  circle: "M8 2.5a5.5 5.5 0 1 0 .01 0z",
  square: "M3 3h10v10H3z",
  "triangle-up": "M8 2.5l6 10.5H2z",
  diamond: "M8 1.5L14.5 8 8 14.5 1.5 8z",
  "triangle-down": "M8 13.5L2 3h12z",
  cross: "M6 2h4v4h4v4h-4v4H6v-4H2V6h4z",
  x: "M4.5 2L8 5.5 11.5 2 14 4.5 10.5 8 14 11.5 11.5 14 8 10.5 4.5 14 2 11.5 5.5 8 2 4.5z",
  star: "M8 1l2 5h5l-4 3.3L12.5 15 8 11.6 3.5 15 5 9.3 1 6h5z",
};

// ---- The points. A setting and a single trial have the same fields, so everything below serves both.

const SPREAD = ["metric", "validation", "baseline", "baseline_validation", "ratio", "bytes", "bits"];
const noSpread = Object.fromEntries(SPREAD.map((name) => [`${name}_std`, undefined]));

function withLoss(point) {
  const sign = data.panels[point.panel].metric_direction === "max" ? 1 : -1;
  return { ...point, loss: sign * (point.baseline - point.metric), loss_std: point.metric_std };
}

const points = {
  settings: data.settings.map((setting, i) => withLoss({ ...setting, setting: i })),
  trials: data.trials.map((trial) => withLoss({ ...data.settings[trial.setting], ...noSpread, ...trial })),
};
const trialsOf = (point) => (point.trial ? [point] : points.trials.filter((trial) => trial.setting === point.setting));
const methods = Object.fromEntries(data.methods.map((method) => [method.name, method]));

const state = { hidden: new Set(), sort: "ratio", descending: true, picked: null };
const choice = (id) => $(id).value;

function shown() {
  return points[choice("points")].filter((point) => {
    const panel = data.panels[point.panel];
    return (
      !state.hidden.has(point.method) &&
      ["", point.experiment].includes(choice("experiment")) &&
      ["", panel.dataset].includes(choice("dataset")) &&
      ["", panel.model].includes(choice("model"))
    );
  });
}

// ---- Small pieces

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function swatch(method) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", "swatch");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", FACE[methods[method].symbol]);
  path.setAttribute("fill", methods[method].color);
  svg.append(path);
  return svg;
}

const missing = (value) => value === null || value === undefined;
const grouped = (value) => (missing(value) ? "" : Math.round(value).toLocaleString("en"));
const times = (value) => (missing(value) ? "" : `${value < 10 ? value.toFixed(2) : value.toFixed(1)}×`);
const significant = (value) => (missing(value) ? "" : String(Number(value.toPrecision(4))));

function metricText(panel, value, spread) {
  if (missing(value)) return "";
  const text = (number) => (panel.percent ? (100 * number).toFixed(2) : significant(number));
  return text(value) + (missing(spread) ? "" : ` ± ${text(spread)}`) + (panel.percent ? " %" : "");
}

function panelName(panel) {
  const alike = data.panels.filter((other) => other.dataset === panel.dataset && other.model === panel.model);
  return `${panel.dataset} · ${panel.model}` + (alike.length > 1 ? ` · ${panel.metric_name}` : "");
}

// ---- Ledger: bytes by kind

function bytesByKind(point) {
  const known = trialsOf(point).filter((trial) => trial.kinds);
  return data.kinds
    .map((kind, i) => ({ kind, i, bytes: known.reduce((sum, trial) => sum + trial.kinds[i] / known.length, 0) }))
    .filter((part) => part.bytes > 0)
    .sort((a, b) => b.bytes - a.bytes);
}

const kindColor = (i) => KIND_COLORS[i % KIND_COLORS.length];

function bar(parts) {
  const spans = parts.map(({ i, bytes }) => {
    const span = make("span");
    span.style.flex = `${bytes} 0 0`;
    span.style.background = kindColor(i);
    return span;
  });
  const label = parts.map((part) => `${part.kind} ${grouped(part.bytes)} bytes`).join(", ");
  return make("div", { class: "bar", role: "img", "aria-label": label }, ...spans);
}

function kindName({ kind, i }) {
  const box = make("span", { class: "box" });
  box.style.background = kindColor(i);
  return make("span", {}, box, kind);
}

function plainTable(headings, rows, numbers) {
  const cell = (tag) => (content, i) => make(tag, numbers.includes(i) ? { class: "number" } : {}, content);
  return make(
    "table",
    {},
    make("thead", {}, make("tr", {}, ...headings.map(cell("th")))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell("td"))))),
  );
}

// ---- The note beside the pointer

function showTip(point, event) {
  const panel = data.panels[point.panel];
  const parts = bytesByKind(point);
  const largest = parts.slice(0, 4).map((part) => make("span", {}, kindName(part), ` ${grouped(part.bytes)}`));
  const seeds = point.trial ? `seed ${point.seed}` : `${point.seeds} ${point.seeds === 1 ? "seed" : "seeds"}`;
  $("tip").replaceChildren(
    make("h3", {}, swatch(point.method), ` ${point.method}`),
    make("p", { class: "settings" }, `${point.label || "no settings"} · ${seeds}`),
    make("p", {}, `test ${panel.metric_name} ${metricText(panel, point.metric, point.metric_std)}`),
    make("p", {}, `${times(point.ratio)} · ${grouped(point.bytes)} bytes · ${significant(point.bits)} bits per weight`),
    ...(parts.length ? [bar(parts), make("p", { class: "kinds" }, ...largest)] : []),
  );
  const tip = $("tip");
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = event.clientX + 16 + box.width > innerWidth ? event.clientX - box.width - 16 : event.clientX + 16;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 12, innerHeight - box.height - 4))}px`;
}

function hideTip() {
  $("tip").hidden = true;
}

// ---- The chosen point

function pick(point) {
  state.picked = point;
  drawDetail();
  draw();
}

function facts(pairs) {
  const known = pairs.filter(([, value]) => value);
  return make("dl", {}, ...known.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

function ledgerByKind(parts) {
  if (!parts.length) return [make("p", { class: "caption" }, "No ledger was stored.")];
  const total = parts.reduce((sum, part) => sum + part.bytes, 0);
  const rows = parts.map((part) => [
    kindName(part),
    grouped(part.bytes),
    `${((100 * part.bytes) / total).toFixed(1)} %`,
  ]);
  return [bar(parts), plainTable(["kind", "bytes", "share"], rows, [1, 2])];
}

function trialTable(panel, trials) {
  const text = (t) => [
    t.trial,
    String(t.seed),
    metricText(panel, t.metric),
    metricText(panel, t.validation),
    grouped(t.bytes),
  ];
  return plainTable(["trial", "seed", panel.metric_name, "validation", "bytes"], trials.map(text), [1, 2, 3, 4]);
}

function drawDetail() {
  const point = state.picked;
  const panel = data.panels[point.panel];
  const trials = trialsOf(point);
  const seconds = Object.entries(trials[0].seconds).filter(([, value]) => !missing(value));
  const title = ` ${point.method} ${point.label}` + (point.trial ? `, seed ${point.seed}` : "");
  const known = missing(point.baseline_validation)
    ? ""
    : `, validation ${metricText(panel, point.baseline_validation)}`;
  $("detail-title").replaceChildren(swatch(point.method), title);
  const marks = [point.front ? "front" : "", point.chosen ? "chosen" : ""].filter(Boolean).join(", ");
  $("detail-body").replaceChildren(
    facts([
      ["where", panelName(panel)],
      [`test ${panel.metric_name}`, metricText(panel, point.metric, point.metric_std)],
      ["validation", metricText(panel, point.validation, point.validation_std)],
      ["baseline", metricText(panel, point.baseline) + known],
      ["ratio", times(point.ratio)],
      ["ratio as the paper counts", times(trials[0].paper_ratio)],
      ["bytes", `${grouped(point.bytes)} of ${grouped(trials[0].dense_bytes)}`],
      ["bits per weight", significant(point.bits)],
      ["seconds", seconds.map(([name, value]) => `${name} ${significant(value)}`).join(", ")],
      ["marks", marks],
      ["failed seeds", point.failed ? String(point.failed) : ""],
    ]),
    make("h3", {}, "Ledger"),
    ...ledgerByKind(bytesByKind(point)),
    ...fold(`Every line of seed ${trials[0].seed}`, point.ledger.length && (() => ledgerTable(point.ledger))),
    ...fold(`Leaves of seed ${trials[0].seed}`, point.leaves.length && (() => leafTable(point.leaves))),
    ...fold(`${trials.length} ${trials.length === 1 ? "trial" : "trials"}`, () => trialTable(panel, trials)),
    ...fold("All settings", () => make("pre", {}, JSON.stringify(point.settings, null, 2))),
  );
}

function fold(title, build) {
  if (!build) return [];
  return [make("details", {}, make("summary", {}, title), make("div", { class: "scroll" }, build()))];
}

function ledgerTable(lines) {
  const rows = lines.map(([section, path, what, coder, count, bytes]) => {
    const words = [section, path, what, coder].map((i) => data.strings[i]);
    return [...words, grouped(count), grouped(bytes)];
  });
  return plainTable(["section", "path", "what", "coder", "count", "bytes"], rows, [4, 5]);
}

function leafTable(leaves) {
  return plainTable(
    ["leaf", "shape", "taken by", "bits"],
    leaves.map(([leaf, shape, by, bits]) => [
      data.strings[leaf],
      shape.join(" × "),
      data.strings[by] || "nothing",
      significant(bits),
    ]),
    [3],
  );
}

// ---- Table

const several = (values) => new Set(values).size > 1;
const of = (name) => (point) => data.panels[point.panel][name];

function columns() {
  const names = new Set(data.panels.map((panel) => panel.metric_name));
  const metric = names.size === 1 ? [...names][0] : "metric";
  const word = (id, title, value) => ({ id, title, value, word: true });
  const measured = (id, title) => {
    const text = (p) => metricText(data.panels[p.panel], p[id], p[`${id}_std`]);
    return { id, title, value: (p) => p[id], text };
  };
  const each = choice("points") === "trials";
  return [
    word("method", "method", (p) => p.method),
    word("label", "setting", (p) => p.label),
    ...(several(data.settings.map((s) => s.experiment)) ? [word("experiment", "experiment", (p) => p.experiment)] : []),
    ...(several(data.panels.map((p) => p.dataset)) ? [word("dataset", "data set", of("dataset"))] : []),
    ...(several(data.panels.map((p) => p.model)) ? [word("model", "model", of("model"))] : []),
    each
      ? { id: "seed", title: "seed", value: (p) => p.seed, text: (p) => String(p.seed) }
      : {
          id: "seeds",
          title: "seeds",
          value: (p) => p.seeds,
          text: (p) => `${p.seeds}${p.failed ? ` (${p.failed} failed)` : ""}`,
        },
    measured("metric", `test ${metric}`),
    measured("validation", "validation"),
    measured("loss", "loss"),
    { id: "ratio", title: "ratio", value: (p) => p.ratio, text: (p) => times(p.ratio) },
    { id: "bytes", title: "bytes", value: (p) => p.bytes, text: (p) => grouped(p.bytes) },
    { id: "bits", title: "bits/weight", value: (p) => p.bits, text: (p) => significant(p.bits) },
    { id: "marks", title: "marks", value: (p) => 2 * p.chosen + p.front },
  ];
}

function compare(column) {
  const sign = state.descending ? -1 : 1;
  return (a, b) => {
    const [left, right] = [column.value(a), column.value(b)];
    if (missing(left) || missing(right)) return missing(left) - missing(right);
    return sign * (column.word ? left.localeCompare(right, "en", { numeric: true }) : left - right);
  };
}

function drawTable(visible) {
  const all = columns();
  const sorted = all.find((column) => column.id === state.sort) ?? all.find((column) => column.id === "ratio");
  $("table").tHead.replaceChildren(
    make(
      "tr",
      {},
      ...all.map((column) =>
        make(
          "th",
          {
            scope: "col",
            "data-column": column.id,
            class: column.word || column.id === "marks" ? "" : "number",
            "aria-sort": column === sorted ? (state.descending ? "descending" : "ascending") : "none",
          },
          make("button", { type: "button", onclick: () => sortBy(column) }, column.title),
        ),
      ),
    ),
  );
  $("table").tBodies[0].replaceChildren(...[...visible].sort(compare(sorted)).map((point) => tableRow(point, all)));
}

function tableRow(point, all) {
  const row = make("tr", { onclick: () => pick(point), ...(point === state.picked ? { "aria-current": "true" } : {}) });
  for (const column of all) {
    if (column.id === "method") {
      // The row's click does the work; the button makes it reachable from the keyboard.
      const button = make("button", { type: "button", class: "pick" }, swatch(point.method), ` ${point.method}`);
      row.append(make("td", {}, button));
    } else if (column.id === "marks") {
      const names = ["front", "chosen"].filter((name) => point[name]);
      row.append(make("td", {}, ...names.map((name) => make("span", { class: `badge ${name}` }, name))));
    } else {
      row.append(
        make("td", { class: column.word ? "text" : "number" }, column.text ? column.text(point) : column.value(point)),
      );
    }
  }
  return row;
}

function sortBy(column) {
  state.descending = state.sort === column.id ? !state.descending : !column.word;
  state.sort = column.id;
  drawTable(shown());
  document.querySelector(`#table th[data-column="${column.id}"] button`).focus();
}

// ---- The whole

function draw() {
  const visible = shown();
  const focused = document.activeElement?.classList.contains("pick");
  hideTip();
  drawPlots(visible);
  drawTable(visible);
  if (focused) document.querySelector('#table tr[aria-current="true"] .pick')?.focus();
}

function fillSelect(id, values) {
  const options = [...new Set(values)].sort().map((value) => make("option", { value }, value));
  $(id).replaceChildren(make("option", { value: "" }, "all"), ...options);
}

function fillMethods() {
  const boxes = data.methods.map(({ name }) => {
    const box = make("input", {
      type: "checkbox",
      onchange: (event) => {
        state.hidden[event.target.checked ? "delete" : "add"](name);
        draw();
      },
    });
    box.defaultChecked = true;
    return [name, box];
  });
  const setAll = (checked) => () => {
    for (const [name, box] of boxes) {
      box.checked = checked;
      state.hidden[checked ? "delete" : "add"](name);
    }
    draw();
  };
  $("methods").append(
    ...boxes.map(([name, box]) => make("label", {}, box, swatch(name), name)),
    make("button", { type: "button", class: "link", onclick: setAll(true) }, "all"),
    make("button", { type: "button", class: "link", onclick: setAll(false) }, "none"),
  );
}

function fillNotices() {
  const number = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
  $("counts").textContent = [
    number(data.methods.length, "method", "methods"),
    number(data.settings.length, "setting", "settings"),
    number(data.trials.length, "finished trial", "finished trials"),
    number(data.failed.length, "failed trial", "failed trials"),
  ].join(" · ");
  if (data.warnings.length) {
    $("warnings").hidden = false;
    $("warnings").querySelector("summary").textContent = number(data.warnings.length, "warning", "warnings");
    $("warnings")
      .querySelector("ul")
      .append(...data.warnings.map((text) => make("li", {}, text)));
  }
  if (data.failed.length) {
    $("failed").hidden = false;
    $("failed")
      .querySelector("ul")
      .append(
        ...data.failed.map((trial) => {
          const error = (trial.error ?? "no error was recorded").trim();
          const last = error.split("\n").pop();
          return make(
            "li",
            {},
            make("strong", {}, `${trial.method}, seed ${trial.seed}`),
            ` · ${trial.dataset} · ${trial.model} · ${trial.trial}`,
            make("div", { class: "error" }, last),
            make(
              "details",
              {},
              make("summary", {}, "settings and whole error"),
              make("pre", {}, trial.settings),
              make("pre", {}, error),
            ),
          );
        }),
      );
  }
}

fillNotices();
fillMethods();
fillSelect(
  "experiment",
  data.settings.map((setting) => setting.experiment),
);
fillSelect(
  "dataset",
  data.panels.map((panel) => panel.dataset),
);
fillSelect(
  "model",
  data.panels.map((panel) => panel.model),
);
for (const select of document.querySelectorAll("#controls select")) {
  select.addEventListener("change", () => {
    if (select.id === "points") state.picked = null;
    draw();
  });
}
$("controls").addEventListener("submit", (event) => event.preventDefault());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
