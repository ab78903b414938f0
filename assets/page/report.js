// @ts-check
// Draws the charts of a report's page, which stand on it as JSON by the ids of their places.

const charts = JSON.parse(document.getElementById('charts')?.textContent ?? '{}');
for (const [place, chart] of Object.entries(charts)) {
  window.Plotly?.newPlot(place, chart.data, chart.layout, { responsive: true, displaylogo: false });
}
