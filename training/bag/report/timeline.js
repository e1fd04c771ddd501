// The scores of one recording over time, all networks over each other; a click says where.
const LINES = [
  ["miou", "mean IoU, %", ".2f"],
  ["consistency", "consistency, %", ".2f"],
  ["confidence", "confidence, %", ".2f"],
  ["latency", "latency, ms", ".1f"],
];
const ROW = 120;
const GAP = 34;
const ZOOM = " Drag to zoom, double-click to see all.";

class Timeline {
  constructor(div, report, onTime) {
    this.div = div;
    this.report = report;
    this.onTime = onTime;
    this.cursor = null;
    this.hidden = new Set();
  }

  toggle(network, shown) {
    if (shown) this.hidden.delete(network);
    else this.hidden.add(network);
    this.draw();
  }

  show(recording) {
    this.recording = recording;
    this.cursor = null;
    this.draw();
  }

  draw(width) {
    const { lines, frames } = this.report.recordings[this.recording];
    const rows = LINES.filter(([key]) => lines.some((line) => line && line[key]));
    const several = this.report.models.length > 1;
    const margin = { l: 44, r: 12, t: 26, b: 44 };
    const rug = 14;
    const inner = rows.length * (ROW + GAP) + rug;
    const end = Math.max(1e-3, ...lines.map((line) => line?.x.at(-1) ?? 0));
    const layout = plotLayout({
      height: inner + margin.t + margin.b,
      width: width || undefined,
      autosize: !width,
      margin,
      hovermode: "x unified",
      hoversubplots: "axis",
      // A finger scrolls the page.
      dragmode: touch ? false : "zoom",
      showlegend: false,
      uirevision: this.recording,
      annotations: [],
      shapes: [this.cursorShape()],
      xaxis: axis({
        title: { text: "seconds since the start", standoff: 8 }, anchor: "free", position: 0, hoverformat: ".2f",
        range: [-0.01 * end, 1.01 * end],
      }),
      yaxis: axis({ domain: [0, rug / inner], visible: false, range: [-1, 1], fixedrange: true }),
    });
    const traces = [];
    rows.forEach(([key, title, format], row) => {
      const top = 1 - (row * (ROW + GAP)) / inner;
      const name = `yaxis${row + 2}`;
      layout[name] = axis({ domain: [top - ROW / inner, top], fixedrange: true, nticks: 5 });
      layout.annotations.push({
        text: title, x: 0, y: top, xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom", showarrow: false,
        font: { color: color("faint"), size: 12 }, bgcolor: color("surface"),
      });
      lines.forEach((line, network) => {
        if (!line || !line[key] || this.hidden.has(network)) return;
        traces.push({
          type: "scatter", mode: line.x.length > 1 ? "lines" : "markers", name: plain(this.report.models[network]),
          x: line.x, y: line[key], xaxis: "x", yaxis: `y${row + 2}`, connectgaps: false,
          line: { color: lineColor(network), width: 1.5, dash: dash(network) },
          hovertemplate: `%{y:${format}}<extra>${title.split(",")[0]}${several ? `, ${plain(this.report.models[network])}` : ""}</extra>`,
        });
      });
    });
    traces.push({
      type: "scatter", mode: "markers", x: frames.map((frame) => frame.t), y: frames.map(() => 0), xaxis: "x", yaxis: "y",
      marker: { symbol: "line-ns", size: 10, line: { width: 1, color: color("faint") } }, hoverinfo: "skip",
    });
    Plotly.react(this.div, traces, layout, plotConfig);
    if (!this.listening) {
      this.listening = true;
      this.div.on("plotly_click", (event) => this.onTime(event.points[0].x));
    }
    this.hint(lines, frames);
  }

  hint(lines, frames) {
    const span = Math.max(...lines.map((line) => (line ? line.span : 1)));
    const thinned = span > 1 ? `Each point is the worst of ${span} successive frames. ` : "";
    const images = frames.length
      ? `Ticks at the bottom are frames that have images; a click leads to the nearest.${touch ? "" : ZOOM}`
      : "The page has no image of this bag.";
    document.getElementById("timeline-hint").textContent = thinned + images;
  }

  cursorShape() {
    return {
      type: "line", xref: "x", yref: "paper", x0: this.cursor ?? 0, x1: this.cursor ?? 0, y0: 0, y1: 1,
      visible: this.cursor !== null, line: { color: color("accent"), width: 2 },
    };
  }

  moveCursor(seconds) {
    this.cursor = seconds;
    Plotly.relayout(this.div, { "shapes[0]": this.cursorShape() });
  }
}
