// The confusion matrix of a network as a heat map; a class without pixels is an empty row.
function drawConfusion(div, report, width) {
  const shares = report.confusions[Number(div.dataset.network)];
  if (!shares) return;
  const names = report.classes.map(plain);
  const places = names.map((_, place) => place);
  const longest = Math.max(...names.map((name) => name.length));
  const room = Math.min(width || div.parentElement.clientWidth, 720);
  // Slanted names need room on the right.
  const narrow = room < 480;
  const margin = {
    l: Math.min(150, 14 + 6.5 * longest), t: Math.min(150, 20 + 6 * longest), r: narrow ? 8 : Math.min(80, 8 + 3 * longest), b: 8,
  };
  const cell = Math.max(12, (room - margin.l - margin.r) / names.length);
  const side = cell * names.length;
  const trace = {
    type: "heatmap",
    x: places,
    y: places,
    z: shares,
    zmin: 0,
    zmax: 100,
    xgap: 1,
    ygap: 1,
    colorscale: [[0, color("heat-low")], [1, color("heat-high")]],
    showscale: cell < 20,
    colorbar: { thickness: 10, ticksuffix: " %" },
    hoverinfo: "text",
    hovertext: shares.map((row, truth) => row.map((share, label) => `${names[truth]}, labelled ${names[label]}: ${share} %`)),
    hoverongaps: false,
  };
  if (cell >= 20) {
    trace.text = shares.map((row) => row.map((share) => (share === null || share < 0.5 ? "" : share.toFixed(0))));
    trace.texttemplate = "%{text}";
    trace.textfont = { size: cell < 26 ? 9 : 11 };
  }
  const ticks = {
    tickfont: { size: cell < 26 ? 10 : 12 }, showgrid: false, fixedrange: true, tickvals: places, ticktext: names,
  };
  const layout = plotLayout({
    width: Math.round(side + margin.l + margin.r + (cell < 20 ? 70 : 0)),
    height: Math.round(side + margin.t + margin.b),
    margin,
    xaxis: axis({ ...ticks, side: "top", tickangle: narrow ? -90 : -60 }),
    yaxis: axis({ ...ticks, autorange: "reversed" }),
  });
  Plotly.react(div, [trace], layout, { ...plotConfig, responsive: false });
}
