"use strict";
// The plots, one per data set and model. Data, state and small pieces are report.js's; the two become one script.

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const X_TITLES = { ratio: "compression ratio", bytes: "bytes of the file", bits: "bits per weight" };

function yTitle(panel) {
  const better = panel.metric_direction === "max" ? "higher" : "lower";
  const titles = {
    metric: `test ${panel.metric_name} (${better} is better)`,
    validation: `validation ${panel.metric_name} (${better} is better)`,
    loss: `test ${panel.metric_name} lost against the baseline`,
  };
  return titles[choice("y")].replaceAll("<", "&lt;"); // plotly reads a little markup in titles
}

// The stairs of the best points: x and y as drawn. Towards more compression is to the right only for the ratio.
function front(members, panel) {
  const xSign = choice("x") === "ratio" ? 1 : -1;
  const ySign = choice("y") === "loss" || panel.metric_direction === "min" ? -1 : 1;
  const [x, y] = [choice("x"), choice("y")];
  const sorted = [...members].sort((a, b) => xSign * (b[x] - a[x]) || ySign * (b[y] - a[y]));
  const best = [];
  for (const point of sorted) {
    if (!best.length || ySign * point[y] > ySign * best[best.length - 1][y]) best.push(point);
  }
  return best;
}

function traces(panel, members) {
  const [x, y] = [choice("x"), choice("y")];
  const size = members.length > 250 ? 6 : members.length > 60 ? 8 : 10;
  const stairs = front(members, panel);
  const best = new Set(stairs);
  const present = data.methods.filter(({ name }) => members.some((point) => point.method === name));
  const byMethod = present.map(({ name, color, symbol }) => {
    const mine = members.filter((point) => point.method === name);
    const faint = color + (members.length > 60 ? "50" : "90");
    const error = (field) => {
      const array = mine.map((p) => p[`${field}_std`] ?? 0);
      return { type: "data", array, visible: array.some((size) => size > 0), color: faint, thickness: 1, width: 0 };
    };
    return {
      type: "scatter",
      mode: "markers",
      name,
      hoverinfo: "none",
      customdata: mine,
      x: mine.map((p) => p[x]),
      y: mine.map((p) => p[y]),
      error_x: error(x),
      error_y: error(y),
      marker: {
        color,
        symbol,
        size,
        opacity: mine.map((p) => (best.has(p) ? 1 : 0.65)),
        line: { color: css("--page"), width: 0.7 },
      },
    };
  });
  const ring = (found, color, width, extra) => ({
    type: "scatter",
    mode: "markers",
    hoverinfo: "skip",
    x: found.map((p) => p[x]),
    y: found.map((p) => p[y]),
    marker: { symbol: "circle-open", size: size + extra, color, line: { color, width } },
  });
  return [
    {
      type: "scatter",
      mode: "lines",
      hoverinfo: "skip",
      x: stairs.map((p) => p[x]),
      y: stairs.map((p) => p[y]),
      line: { shape: "hv", color: css("--ink"), width: 1.3 },
    },
    ...byMethod,
    ring(
      members.filter((p) => p.chosen),
      css("--mark"),
      1.6,
      8,
    ),
    ring(
      members.filter((p) => p === state.picked),
      css("--accent"),
      2.5,
      14,
    ),
  ];
}

function baselines(panel, members) {
  if (choice("y") === "loss") return [0];
  if (choice("y") === "metric") return panel.baselines;
  const known = members.map((p) => p.baseline_validation).filter((value) => !missing(value));
  return known.length ? [known.reduce((a, b) => a + b) / known.length] : [];
}

function yRange(panel, members, lines) {
  const y = choice("y");
  const all = panel.reach === null || choice("range") === "all";
  const near = all ? members : members.filter((p) => p.loss <= panel.reach);
  const ends = (p) => [p[y] - (p[`${y}_std`] ?? 0), p[y] + (p[`${y}_std`] ?? 0)];
  const values = [...lines, ...near.flatMap(ends)];
  if (!near.length || near.length === members.length) return { range: null, beyond: 0 };
  const pad = 0.07 * (Math.max(...values) - Math.min(...values)) || 0.01;
  const range = [Math.min(...values) - pad, Math.max(...values) + pad];
  return { range, beyond: members.filter((p) => p[y] < range[0] || p[y] > range[1]).length };
}

// Round numbers for a logarithmic axis: decades, or 1-2-5 in each, or even steps if the axis spans too little for these.
function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const inside = (value) => value >= low * 0.999 && value <= high * 1.001;
  if (decades > 0.85) {
    const first = Math.floor(Math.log10(low));
    const powers = Array.from({ length: Math.ceil(decades) + 2 }, (_, i) => 10 ** (first + i));
    return powers.flatMap((power) => (decades > 2.5 ? [power] : [power, 2 * power, 5 * power])).filter(inside);
  }
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((m) => m * power >= rough) ?? 10);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
}

function xTicks(low, high) {
  const unit = high < 2e4 ? [1, "B"] : high < 2e7 ? [1e3, "kB"] : [1e6, "MB"];
  const text = {
    ratio: (value) => `${significant(value)}×`,
    bits: significant,
    bytes: (value) => `${significant(value / unit[0])} ${unit[1]}`,
  }[choice("x")];
  const values = logTicks(low, high);
  return { tickvals: values, ticktext: values.map(text) };
}

function xRange(members) {
  const values = members.map((p) => p[choice("x")]);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const pad = Math.max((high / low) ** 0.06, 1.12);
  return [low / pad, high * pad];
}

function layout(panel, members, lines, range) {
  const [low, high] = xRange(members);
  const axis = {
    gridcolor: css("--grid"),
    linecolor: css("--line"),
    tickcolor: css("--line"),
    ticks: "outside",
    zeroline: false,
    automargin: true,
  };
  const percent = panel.percent ? { tickformat: ".4~%" } : {};
  const label = (value, i) => ({
    xref: "paper",
    x: 1,
    xanchor: "left",
    xshift: 4,
    y: value,
    showarrow: false,
    align: "left",
    font: { size: 11, color: css("--quiet") },
    text: (i === lines.length - 1 ? "baseline<br>" : "") + metricText(panel, value),
  });
  return {
    margin: { l: 58, r: 66, t: 8, b: 46 },
    showlegend: false,
    hovermode: "closest",
    dragmode: "zoom",
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, color: css("--ink"), size: 12 },
    xaxis: {
      ...axis,
      ...xTicks(low, high),
      type: "log",
      tickangle: 0,
      range: [Math.log10(low), Math.log10(high)],
      title: { text: X_TITLES[choice("x")], standoff: 8 },
    },
    yaxis: { ...axis, ...percent, title: { text: yTitle(panel), standoff: 6 }, ...(range ? { range } : {}) },
    shapes: lines.map((y) => ({
      type: "line",
      xref: "paper",
      x0: 0,
      x1: 1,
      y0: y,
      y1: y,
      layer: "below",
      line: { color: css("--quiet"), width: 1, dash: "dash" },
    })),
    annotations: lines.map(label),
  };
}

// After a zoom: plotly's own labels for part of a decade are hard to read.
function retick(chart) {
  const [low, high] = chart.layout.xaxis.range.map((power) => 10 ** power);
  const { tickvals, ticktext } = xTicks(low, high);
  Plotly.relayout(chart, { "xaxis.tickvals": tickvals, "xaxis.ticktext": ticktext });
}

const cards = new Map();

function card(index) {
  if (!cards.has(index)) {
    const chart = make("div", { class: "chart" });
    const note = make("div", { class: "note" });
    const whole = make("div", { class: "card" }, make("h3", {}, panelName(data.panels[index])), note, chart);
    cards.set(index, { whole, chart, note, wired: false });
  }
  return cards.get(index);
}

function drawPlots(visible) {
  const wanted = data.panels.map((_, i) => i).filter((i) => visible.some((point) => point.panel === i));
  $("charts").replaceChildren(...wanted.map((i) => card(i).whole));
  if (!wanted.length) {
    const reason = data.settings.length ? "Nothing matches the filters." : "No trial ended with numbers.";
    $("charts").append(make("p", { class: "caption" }, reason));
  }
  for (const i of wanted) {
    const panel = data.panels[i];
    const members = visible.filter((p) => p.panel === i && !missing(p[choice("x")]) && !missing(p[choice("y")]));
    const lines = baselines(panel, members);
    const { range, beyond } = yRange(panel, members, lines);
    const place = card(i);
    const label = `${panelName(panel)}: plot of ${members.length} points; the table below holds the same numbers`;
    place.chart.setAttribute("role", "img");
    place.chart.setAttribute("aria-label", label);
    place.note.textContent = beyond ? `${beyond} far from the baseline, outside the plot (see Range)` : "";
    const config = {
      responsive: true,
      displaylogo: false,
      // Named one by one: plotly's own choice has a button that uploads the data.
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
    };
    Plotly.react(place.chart, traces(panel, members), layout(panel, members, lines, range), config);
    if (!place.wired) {
      place.wired = true;
      place.chart.on("plotly_hover", ({ points: [hit], event }) => hit.customdata && showTip(hit.customdata, event));
      place.chart.on("plotly_unhover", hideTip);
      place.chart.on("plotly_relayout", (change) => "xaxis.range[0]" in change && retick(place.chart));
      place.chart.on("plotly_click", ({ points: [hit] }) => hit.customdata && pick(hit.customdata));
    }
  }
}
