// The colours of figures, from the page's style, and what all of them share.
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function lineColor(network) {
  return color(`line-${network % 6}`);
}

// Networks beyond the sixth have a colour again, but not a dash.
function dash(network) {
  return ["solid", "dash", "dot", "dashdot"][(network + Math.floor(network / 6)) % 4];
}

// No bar of buttons: one of them sends data to a server.
const plotConfig = { displayModeBar: false, showSendToCloud: false, responsive: true };
const touch = window.matchMedia("(pointer: coarse)").matches;

// Plotly reads tags and templates in what it shows.
function plain(name) {
  return name.replace(/[<>&%{}]/g, " ").slice(0, 40);
}

function axis(more) {
  return {
    gridcolor: color("grid"),
    linecolor: color("edge"),
    tickcolor: color("edge"),
    zeroline: false,
    ...more,
  };
}

function plotLayout(more) {
  return {
    paper_bgcolor: color("surface"),
    plot_bgcolor: color("surface"),
    font: { color: color("text"), family: getComputedStyle(document.body).fontFamily, size: 12 },
    hoverlabel: { bgcolor: color("sunken"), bordercolor: color("edge"), font: { color: color("text") } },
    ...more,
  };
}

// Calls `draw` now, when the system turns light or dark, and around printing, which is light and narrow.
function drawnByTheme(draw) {
  draw();
  dark.addEventListener("change", () => draw());
  window.addEventListener("beforeprint", () => {
    document.documentElement.dataset.print = "";
    draw(660);
  });
  window.addEventListener("afterprint", () => {
    delete document.documentElement.dataset.print;
    draw();
  });
}
