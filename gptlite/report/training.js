// All charts anew, as wide as there is room.
async function draw() {
  for (const id of Object.keys(specs)) {
    const width = byId(id).clientWidth;
    const height = id === "map" ? Math.min(620, width) : id === "bits" ? Math.min(340, width * 0.8) : 220;
    const size = { width: id === "map" ? height : width, height };
    const room = data.mapSizes.find((least) => least <= height) ?? data.mapSizes.at(-1);
    await drawChart(id, size, { content: id === "map" ? { signals: { room } } : {} });
  }
  document.body.dataset.shown = Object.keys(specs).length;
}

switchAxes(draw);
begin(draw);
